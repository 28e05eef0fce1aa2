"""The command export: tables and rows as files, charts as figures, trials as runs of a tracker."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from moleflow.errors import InvalidInput
from moleflow.suggestions import hint_at
from orchestrator.cli.app import Folder, ShowAll, Split, check_choice, choice
from orchestrator.cli.completion import words_of
from orchestrator.cli.others_folder import explain_damage, show

TRACKERS = ("mlflow", "tensorboard", "wandb")
FORMATS = ("csv", "latex", "markdown", "parquet")
WHAT = ("tables", "trials", "metrics", "scores", "curves", "attempts")


@explain_damage("place")
def export(
    place: Folder,
    form: Annotated[
        str | None,
        choice(
            "--format",
            FORMATS,
            "csv | latex | markdown | parquet; trials and stored tables are CSV or Parquet. Default: as the file's name "
            "ends, else csv.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FILE|TRACKER",
            help="A file that ends in .csv, .tex, .md or .parquet, which is replaced (default: stdout), or mlflow | "
            "tensorboard | wandb: one run per trial.",
            show_default=False,
            autocompletion=words_of(*TRACKERS),
        ),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--into",
            help="With a tracker: the folder in which its own folder is made. Default: exports.",
            show_default=False,
        ),
    ] = None,
    what: Annotated[
        str,
        choice(
            "--what",
            WHAT,
            "tables (the comparison) | trials (a row each, knobs as columns) | metrics | scores | curves | attempts "
            "(as stored).",
        ),
    ] = "tables",
    split: Split = None,
    everything: ShowAll = False,
    document: Annotated[
        bool,
        typer.Option("--document", help="With --format latex: a document that compiles, not only its tables."),
    ] = False,
    one: Annotated[
        str | None,
        typer.Option(
            "--table",
            help="With LaTeX or Markdown: only one table, by its number (0: the ranking) or the beginning of its title.",
            show_default=False,
        ),
    ] = None,
    caption: Annotated[
        str | None,
        typer.Option(
            "--caption",
            metavar="TEXT",
            help="With LaTeX and --table: its caption. Default: the table's title and images.",
            show_default=False,
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure", metavar="FILE", help="A chart of the page as a .pdf, .svg or .png file.", show_default=False
        ),
    ] = None,
    chart: Annotated[
        str | None,
        typer.Option(
            "--chart",
            help="With --figure: which chart, by its number or the beginning of its title. Default: the answer's.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Export tables, rows, charts or trials for other programs and papers.

    results/README.md explains the columns. LaTeX tables need the packages booktabs and
    threeparttable. A tracker's runs are written by its own client, without a network; exporting
    again doubles none.

    For instance:

      moleflow-sweep export results/v7_gamma --table 1 --to gamma.tex
      moleflow-sweep export results/v7_gamma --figure gamma.pdf
      moleflow-sweep export results/v7_gamma --what trials --to trials.parquet
      moleflow-sweep export results/v7_gamma --to mlflow
    """
    tracked = to in TRACKERS
    _refuse_what_does_not_fit(
        tracked or figure is not None,
        {
            "--format": form is not None,
            "--what": what != "tables",
            "--table": one is not None,
            "--document": document,
            "--caption": caption is not None,
            "--split": tracked and split is not None,
            "--to": figure is not None and to is not None,
        },
        "a tracker" if tracked else "--figure",
    )
    if into is not None and not tracked:
        raise InvalidInput(f"--into: is for a tracker; give --to {' | '.join(TRACKERS)} too, or leave it out")
    if chart is not None and figure is None:
        raise InvalidInput("--chart: needs --figure FILE; give that too, or leave --chart out")
    if to is not None and not tracked and not Path(to).suffix and (near := hint_at(to, TRACKERS)):
        raise InvalidInput(f"--to: given '{to}', which is no tracker{near} For a file, give its ending: --to {to}.csv")
    if figure is not None:
        from orchestrator.html_report.figure import write_figure

        drawn = write_figure(place, figure, chart, split, everything)
        show(f"written: {figure} ({drawn.title})\ncaption: {drawn.note.strip()}", error=True)
    elif tracked:
        _export_runs(place, check_choice("--to", str(to), TRACKERS), into, everything)
    else:
        _export_tables(place, form, None if to is None else Path(to), what, split, everything, document, one, caption)


def _refuse_what_does_not_fit(applies: bool, given: dict[str, bool], goal: str) -> None:
    """Refuse options of tables for an export that has none.

    Raises:
        InvalidInput: one of them is given.
    """
    wrong = [option for option, is_given in given.items() if is_given]
    if applies and wrong:
        raise InvalidInput(f"{wrong[0]}: has no meaning for an export to {goal}; leave it out")


def _export_runs(place: Path, tracker: str, into: Path | None, everything: bool) -> None:
    from orchestrator.trackers.export_runs import export_runs

    done = export_runs(place, tracker, into or Path("exports"), everything)
    show(f"written: {done.counts()} in {done.folder}", error=True)
    show(f"to see them: {shlex.join(done.viewer)}", error=True)


def _export_tables(
    place: Path,
    form: str | None,
    to: Path | None,
    what: str,
    split: str | None,
    everything: bool,
    document: bool,
    one: str | None,
    caption: str | None,
) -> None:
    from orchestrator.reports import export

    if form is not None:
        check_choice("--format", form, export.FORMATS)
    chosen, table = export.format_of(form, to), check_choice("--what", what, export.WHAT)

    def note(line: str) -> None:
        show(line, error=True)

    if chosen == "parquet" and to is not None and not document and one is None and caption is None:
        export.export_parquet(place, to, table, split, everything, note)
        show(f"written: {to}", error=True)
        return
    pieces = export.export_tables(place, chosen, table, split, everything, document, one, caption, note)
    if to is None:
        for piece in pieces:
            show(piece, end="")
    else:
        export.write_pieces(pieces, to)
        show(f"written: {to}", error=True)
