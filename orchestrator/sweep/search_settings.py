"""The checks of a sweep file's `search:` block, and the settings that a search adds."""

from __future__ import annotations

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import Layer
from moleflow.suggestions import hint_at
from orchestrator.sweep.base_choice import seeds_of
from orchestrator.sweep.file_schema import COSTS, SELECTION, SweepFile

VALIDATION_SETTINGS = {"data.validation_fraction": 0.2, "data.validation_anomalies": "synthetic"}


def search_layers(keys: SweepFile, source: str) -> list[Layer]:
    """Check the `search` block, and return the settings that give a search validation images.

    Returns:
        One layer, to lie under the base; none for a sweep without a search.

    Raises:
        InvalidInput: keys that contradict each other, or an unknown metric.

    """
    if keys.search is None:
        return []
    search = keys.search
    if keys.version is None:
        raise InvalidInput(
            f"{source}: version: is missing; a search starts from one, even if version is in search.space"
        )
    for key, names in (("objectives", search.objectives), ("constraints", search.constraints)):
        for name in names:
            if name not in (*SELECTION, *COSTS):
                hint = hint_at(name, (*SELECTION, *COSTS))
                allowed = ", ".join((*SELECTION, *COSTS))
                raise InvalidInput(f"{source}: search.{key}: unknown metric '{name}'; allowed: {allowed}{hint}")
    if search.sampler == "cmaes" and (len(search.objectives) > 1 or search.constraints):
        raise InvalidInput(
            f"{source}: search.sampler: given cmaes, which takes one objective and no constraints; "
            "allowed here: tpe | gp | nsga2 | random | qmc"
        )
    if search.pruner != "none" and (len(search.objectives) > 1 or not set(search.objectives) <= set(SELECTION)):
        raise InvalidInput(
            f"{source}: search.pruner: '{search.pruner}' needs one objective, a metric of the images; "
            f"given: {', '.join(search.objectives)}"
        )
    if keys.early_stopping is not None:
        raise InvalidInput(f"{source}: early_stopping: a search stops trials by search.pruner; keep one of them")
    return [Layer(f"{source}: search", VALIDATION_SETTINGS)]


def final_seeds_of(keys: SweepFile, seeds: tuple[int, ...], source: str) -> tuple[int, ...]:
    """Return the seeds that test the finalists.

    Args:
        keys: the sweep file.
        seeds: the seeds of the sweep. They test the finalists too if `without_data` replaced the
            file's seeds, or if the file has no `final_seeds`.
        source: the sweep file, for messages.

    Raises:
        InvalidInput: a seed is given twice.

    """
    if keys.search is None or keys.search.final_seeds is None or seeds != seeds_of(keys.seeds, source):
        return seeds
    return seeds_of(keys.search.final_seeds, f"{source}: search.final_seeds")
