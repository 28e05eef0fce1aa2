"""Finished trials of a results folder that a plan does not contain.

The plan's trials can reuse their stages.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from moleflow.settings.config import TrialConfig
from orchestrator.results.schema import ATTEMPTS, FINISHED
from orchestrator.results.store import ResultStore
from orchestrator.sweep.trial import Inputs, Trial


def earlier_finished_trials(store: ResultStore, planned: Collection[str], code: str) -> list[Trial]:
    """The finished trials of a store that are not planned.

    An earlier text of the sweep file had them.

    Args:
        store: the sweep's results.
        planned: ids of the trials of the plan.
        code: the code digest. Stages of other code cannot be reused, so those trials are left out.

    Raises:
        InvalidInput: a part was written with another schema.

    """
    rows = store.read(ATTEMPTS, ["trial_id", "status", "code_digest", "config", "seed"])
    ours = pc.and_(pc.equal(rows["status"], FINISHED), pc.equal(rows["code_digest"], code))
    known = pc.is_in(rows["trial_id"], pa.array(planned, pa.string()))
    rows = rows.filter(pc.and_(ours, pc.invert(known)))
    variants: dict[str, tuple[TrialConfig, Inputs]] = {}
    trials = []
    for row in rows.select(["trial_id", "config", "seed"]).to_pylist():
        # Reading a configuration is slow. Trials that differ in their seed only share one.
        variant = row["config"].replace(f'"seed":{row["seed"]},', "", 1)
        with contextlib.suppress(ValueError, KeyError):  # A row that another program wrote.
            config, inputs = variants.get(variant) or variants.setdefault(variant, _read(row["config"]))
            trials.append(Trial(row["trial_id"], config.model_copy(update={"seed": row["seed"]}), {}, inputs))
    return trials


def _read(text: str) -> tuple[TrialConfig, Inputs]:
    """A trial's configuration and inputs, from the canonical JSON of its identity."""
    identity = json.loads(text)
    digests = identity.pop("data_digests")
    config = TrialConfig.model_validate(identity)
    return config, Inputs(dict(zip(config.data.classes, digests, strict=True)), identity["backbone"]["weights"], "")
