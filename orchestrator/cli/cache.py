"""The command cache."""

from __future__ import annotations

from typing import Annotated

import typer

from moleflow.errors import InvalidInput
from orchestrator.cli import completion
from orchestrator.cli.app import CacheDir


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
            help="What it may hold from now on, such as 50GB, or none: beyond it, what was used least recently goes. "
            "MOLEFLOW_CACHE_BUDGET stands above it.",
        ),
    ] = None,
    evict: Annotated[bool, typer.Option("--evict", help="Make room now, down to the budget.")] = False,
    clear: Annotated[
        bool,
        typer.Option(
            "--clear", help="Delete what is not in use by a running sweep: --clear features. Results are not touched."
        ),
    ] = False,
) -> None:
    """Show what the cache of features and stages holds, give it a budget, or make room in it.

    For instance:

      moleflow-sweep cache --budget 50GB --evict
      moleflow-sweep cache --clear features
    """
    from orchestrator.host.cache_folder import default_cache
    from orchestrator.monitor.cache import check_cache_request, clear_part, describe_cache, evict_now, set_cache_budget

    place = cache_dir or default_cache()
    check_cache_request(place, part, evict, budget)
    if part is not None and not clear:
        raise InvalidInput(f"cache: given '{part}' alone; to delete it: moleflow-sweep cache --clear {part}")
    if budget is not None:
        print(set_cache_budget(place, budget))
    print("\n".join(describe_cache(place)))
    if evict:
        print(evict_now(place))
    if clear:
        print(clear_part(place, part or "all"))
