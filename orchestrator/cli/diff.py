"""The command diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moleflow.errors import InvalidInput
from orchestrator.cli.others_folder import explain_damage, show
from orchestrator.records.sweep_folder import FILE

RESULTS = Path("results")


@explain_damage("words")
def diff(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="TRIAL TRIAL [DIR]",
            help="Two trials: ids, first digits of ids, or names in quotes; then one or two results folders. "
            "Default: every folder in results/.",
            show_default=False,
        ),
    ],
    full: Annotated[bool, typer.Option("--full", help="Every metric of every class, not only the main ones.")] = False,
) -> None:
    """Show where two trials differ: configuration, environment and metrics; the rest in one line.

    With two folders, the first trial is looked for in the first one and the second trial in the
    second one: so a trial can be compared with itself on another machine.

    For instance:

      moleflow-sweep diff 3f2a 90bc results/v7_gamma
      moleflow-sweep diff "focal_gamma=0 seed=0" "focal_gamma=2 seed=0" results/v7_gamma
      moleflow-sweep diff 3f2a 3f2a results/laptop results/cluster
    """
    from orchestrator.reports.render import markdown_table
    from orchestrator.reports.trial_diff import diff_trials

    folders = [Path(word) for word in words if Path(word).is_dir()]
    trials = [word for word in words if not Path(word).is_dir()]
    if len(trials) > 2 and "/" in trials[-1]:
        raise InvalidInput(f"diff: {trials[-1]} is no folder; give results folders behind the two trials")
    if len(trials) != 2:
        raise InvalidInput(f"diff: given {len(trials)} trials, needed: two, such as `diff 3f2a 90bc results/NAME`")
    if len(folders) > 2:
        raise InvalidInput(f"diff: given {len(folders)} folders, allowed: one or two")
    folders = folders or sorted(path.parent for path in RESULTS.glob(f"*/{FILE}"))
    if not folders:
        raise InvalidInput("diff: no results folder is given, and there is none in results/; give one")
    found = diff_trials(trials[0], trials[1], folders, full)
    show(f"a: {found.first.line}\nb: {found.second.line}\n")
    for table in found.tables:
        show(markdown_table(table))
    show("\n".join([f"equal: {found.equal}", *found.notes]))
