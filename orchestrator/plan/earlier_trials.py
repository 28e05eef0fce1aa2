"""Trials that a results folder holds beside those of a plan: what they have trained is there for the plan's trials too."""

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
    """The finished trials of a store that are not among the `planned` ids, as an earlier sweep file of the name had them.

    Args:
        store: the results folder's.
        planned: ids of the trials of the plan.
        code: digest of the code at hand; what other code trained is of no use to it.

    Raises:
        InvalidInput: a part was written with another schema.

    """
    rows = store.read(ATTEMPTS, ["trial_id", "status", "code_digest", "config", "seed"])
    ours = pc.and_(pc.equal(rows["status"], FINISHED), pc.equal(rows["code_digest"], code))
    known = pc.is_in(rows["trial_id"], pa.array(planned, pa.string()))
    rows = rows.filter(pc.and_(ours, pc.invert(known)))
    variants: dict[str, tuple[TrialConfig, Inputs]] = {}
    found = []
    for row in rows.select(["trial_id", "config", "seed"]).to_pylist():
        # Seeds differ in nothing else: one configuration of them is read, which is what takes long.
        variant = row["config"].replace(f'"seed":{row["seed"]},', "", 1)
        with contextlib.suppress(ValueError, KeyError):  # Rows that another program wrote.
            config, inputs = variants.get(variant) or variants.setdefault(variant, _read(row["config"]))
            found.append(Trial(row["trial_id"], config.model_copy(update={"seed": row["seed"]}), {}, inputs))
    return found


def _read(text: str) -> tuple[TrialConfig, Inputs]:
    """A trial's configuration and what it reads, of its identity's canonical JSON.

    Raises:
        ValueError: it is not that.
        KeyError: nor is it the same without some key.

    """
    identity = json.loads(text)
    digests = identity.pop("data_digests")
    config = TrialConfig.model_validate(identity)
    return config, Inputs(dict(zip(config.data.tasks, digests, strict=True)), identity["backbone"]["weights"], "")
