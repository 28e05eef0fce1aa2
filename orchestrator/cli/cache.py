"""The command cache."""

from __future__ import annotations

from typing import Annotated

import typer

from moleflow.errors import InvalidInput
from orchestrator.cli import completion
from orchestrator.cli.app import CacheDir
from orchestrator.cli.others_folder import explain_damage, show
from orchestrator.host.command_line import program_name


@explain_damage("cache_dir")
def cache(
    part: Annotated[
        str | None,
        typer.Argument(
            metavar="PART",
            help="With --clear: all | features | stages | defects. Default: all.",
            show_default=False,
            autocompletion=completion.words_of("all", "features", "stages", "defects"),
        ),
    ] = None,
    cache_dir: CacheDir = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Largest size from now on, such as 50GB, or none. Above it, the least recently used entries are evicted. "
            "MOLEFLOW_CACHE_BUDGET takes precedence.",
        ),
    ] = None,
    evict: Annotated[bool, typer.Option("--evict", help="Evict entries now, down to the budget.")] = False,
    clear: Annotated[
        bool,
        typer.Option("--clear", help="Delete entries that no running sweep uses: --clear features. Results are kept."),
    ] = False,
) -> None:
    """Show the cache of features and stages, set its budget, or evict entries.

    For instance:

      moleflow-sweep cache --budget 50GB --evict
      moleflow-sweep cache --clear features
    """
    from orchestrator.host.cache_folder import default_cache
    from orchestrator.monitor.cache import check_cache_request, clear_part, describe_cache, evict_now, set_cache_budget

    folder = cache_dir or default_cache()
    check_cache_request(folder, part, evict, budget)
    if part is not None and not clear:
        raise InvalidInput(f"cache: given '{part}' alone; to delete it: {program_name()} cache --clear {part}")
    if budget is not None:
        show(set_cache_budget(folder, budget))
    show("\n".join(describe_cache(folder)))
    if evict:
        show(evict_now(folder))
    if clear:
        show(clear_part(folder, part or "all"))
