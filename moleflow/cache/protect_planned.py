"""Protection of the stored stages that a sweep is going to need, from its start.

A stage that another job trained may not have been used since the sweep began. No pin protects it
then until its first trial loads it. So the start of a sweep marks such stages as used.

They are known by their settings and code alone, without torch and without reading an image. That
may include a stage of other images, weights or another device, which then stays a while longer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from moleflow import files
from moleflow.cache.entries import STAGES, mark_used, stage_entries
from moleflow.code_digest import code_digest
from moleflow.settings.config import TrialConfig, digest, reach


def stage_settings_digest(config: TrialConfig, task: int) -> str:
    """The digest of what code and settings say about a stage and those before it.

    Args:
        config: the trial.
        task: position of the stage's task in the sequence, from 0.
    """
    settings = [reach(config, "training", position) for position in (0, task)]
    code = code_digest("bank" if config.bank.enabled else "training")
    return digest([code, config.data.tasks[: task + 1], *settings])


def protect_planned_stages(cache: Path, configs: Iterable[TrialConfig]) -> None:
    """Mark the stored stages of `configs` as used now."""
    wanted: set[str] = set()
    for config in configs:
        wanted.update(stage_settings_digest(config, task) for task in range(len(config.data.tasks)))
    for entry in stage_entries(cache / STAGES) if wanted else ():
        if entry.kind == "stages":
            # Gone, damaged, or stored by earlier code, which noted no settings.
            with suppress(OSError, ValueError, KeyError, TypeError):
                if json.loads(files.read(entry.used))["facts"]["settings"] in wanted:
                    mark_used(entry.used)
