"""The stored stages that a sweep is going to need, marked as used when it starts.

A stage that was trained long ago, or by a leader whose job has ended, has not been used since the sweep began, so that no pin holds it
until its first trial loads it. Which stages those are is told without torch and without a look at any image: by the settings that reach
them and by the code. That may take in a stage of other images, weights or another device, which then stays a while longer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from moleflow.cache.entries import STAGES, mark_used, stage_entries
from moleflow.code_digest import code_digest
from moleflow.settings.config import TrialConfig, digest, reach


def stage_settings_digest(config: TrialConfig, task: int) -> str:
    """What tells the stage of the task at position `task` as far as code and settings do, those of the stages before it included."""
    first, own = (reach(config, "training", position) for position in (0, task))
    return digest([code_digest("training"), config.data.tasks[: task + 1], first, own])


def protect_planned_stages(cache: Path, configs: Iterable[TrialConfig]) -> None:
    """Note that the stages of `configs` that are stored are used now."""
    wanted: set[str] = set()
    for config in configs:
        wanted.update(stage_settings_digest(config, task) for task in range(len(config.data.tasks)))
    for entry in stage_entries(cache / STAGES) if wanted else ():
        if entry.kind == "stages":
            with suppress(OSError, ValueError, KeyError, TypeError):  # Gone, damaged, or of code that noted nothing.
                if json.loads(entry.used.read_text())["facts"]["settings"] in wanted:
                    mark_used(entry.used)
