"""Checks and settings of a `search:` block."""

from __future__ import annotations

from moleflow.errors import InvalidInput, did_you_mean
from moleflow.settings.knobs import Layer
from orchestrator.sweep import base_choice
from orchestrator.sweep.file_schema import COSTS, SELECTION, SweepFile

SELECTED_ON = {"data.validation_fraction": 0.2, "data.validation_anomalies": "synthetic"}


def search_layers(keys: SweepFile, source: str) -> list[Layer]:
    """What lies under a search's base: images to select on, none of them a test image."""
    if keys.search is None:
        return []
    asked = keys.search
    if keys.version is None:
        raise InvalidInput(
            f"{source}: version: is missing; a search starts from one, also where version is in its space"
        )
    for key, names in (("objectives", asked.objectives), ("constraints", asked.constraints)):
        unknown = [name for name in names if name not in (*SELECTION, *COSTS)]
        if unknown:
            known = ", ".join((*SELECTION, *COSTS))
            hint = did_you_mean(unknown[0], (*SELECTION, *COSTS))
            raise InvalidInput(f"{source}: search.{key}: unknown metric '{unknown[0]}'; allowed: {known}{hint}")
    if asked.sampler == "cmaes" and (len(asked.objectives) > 1 or asked.constraints):
        raise InvalidInput(
            f"{source}: search.sampler: cmaes knows one objective and no constraints; allowed here: tpe | gp | nsga2 | random | qmc"
        )
    if asked.pruner != "none" and (len(asked.objectives) > 1 or not set(asked.objectives) <= set(SELECTION)):
        raise InvalidInput(
            f"{source}: search.pruner: '{asked.pruner}' needs one objective, a metric of the images; "
            f"given: {', '.join(asked.objectives)}"
        )
    if keys.early_stopping is not None:
        raise InvalidInput(f"{source}: early_stopping: a search stops trials by search.pruner; keep one of them")
    return [Layer(f"{source}: search", dict(SELECTED_ON))]


def final_seeds_of(keys: SweepFile, seeds: tuple[int, ...], source: str) -> tuple[int, ...]:
    """Where fewer seeds than the file's take their place, they do for the finalists too."""
    if keys.search is None or keys.search.final_seeds is None or seeds != base_choice.seeds_of(keys.seeds, source):
        return seeds
    return base_choice.seeds_of(keys.search.final_seeds, f"{source}: search.final_seeds")
