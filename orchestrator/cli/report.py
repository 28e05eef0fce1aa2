"""The commands report, claims, verify and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moleflow.errors import InvalidInput
from orchestrator.cli.app import DIR, FORMATS, Format, ShowAll, Split, check_choice
from orchestrator.cli.others_folder import explain_damage, show
from orchestrator.exit_codes import FAILED


@explain_damage("folder")
def report(
    folder: Annotated[Path | None, DIR] = None,
    everything: ShowAll = False,
    split: Split = None,
    form: Format = "markdown",
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Show the published rows next to the measured ones.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Show only the published rows; needs no folder and writes nothing.")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Also report.html: one file with tables, charts, trials and anomaly maps.")
    ] = False,
) -> None:
    """Make the comparison tables of a results folder again: report.md, report.csv and report.tex.

    With --all, --with-published or --split validation, the files are report-all.md,
    report-published.md, report-validation.md and so on; report.md stays.

    For instance:

      moleflow-sweep report results/v7_gamma --html
      moleflow-sweep report results/v7_gamma --with-published
      moleflow-sweep report --published
    """
    from orchestrator.records.sweep_folder import read_sweep_folder
    from orchestrator.reports import make
    from orchestrator.reports.tables import write_report

    check_choice("--format", form, FORMATS)
    if published and (folder or everything or with_published):
        raise InvalidInput(
            "--published: takes neither a folder nor --all nor --with-published; "
            "for published rows next to those of a folder: report FOLDER --with-published"
        )
    if published and split == "validation":
        raise InvalidInput("--split: is for a results folder, and published rows are about test images; leave it out")
    if html and folder is None:
        raise InvalidInput("--html: is for a results folder: report FOLDER --html")
    if published:
        made = make.published_report()
    elif folder is not None:
        made = make.stored_report(folder, read_sweep_folder(folder), everything, with_published, split)
    else:
        raise InvalidInput("report: give a results folder, such as results/v7_gamma, or --published")
    show({"markdown": made.body, "csv": made.csv, "latex": made.latex}[form]())
    if folder is None:
        return
    paths = write_report(made, folder, make.report_name(everything, with_published, split))
    if html:
        from orchestrator.html_report.page import make_page

        paths["html"] = make_page(folder, made, paths["md"].stem)
    show(f"written: {', '.join(str(path) for path in paths.values())}", error=True)
    if not html and (older := make.older_page(paths["md"])):
        show(older, error=True)


@explain_damage("folders")
def claims(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Results folders; a contrast may span them.", show_default=False)
    ],
    everything: ShowAll = False,
) -> None:
    """Print the update notes' claims with measured differences, intervals and verdicts.

    For instance:

      moleflow-sweep claims results/v7_gamma results/v3_ablation
    """
    from orchestrator.claims.claims import stated_claims
    from orchestrator.claims.ledger import ledger_markdown, read_ledger

    rows, damaged = read_ledger(folders, everything)
    show(ledger_markdown(rows, stated_claims().rules, damaged))


@explain_damage("file")
def verify(
    file: Annotated[Path, typer.Argument(metavar="REPORT", help="A report.md, or its folder.", show_default=False)],
) -> None:
    """Make a report again from its folder's Parquet files and compare every byte.

    Exit code 0 if they are equal, 1 if not.

    For instance:

      moleflow-sweep verify results/v7_gamma/report.md
    """
    from orchestrator.reports import make

    verdict = make.verify_report(file / "report.md" if file.is_dir() else file)
    show("\n".join(verdict.lines()))
    raise typer.Exit(0 if verdict.equal else FAILED)


@explain_damage("places")
def compare(
    places: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Results folders, two or more.", show_default=False)
    ],
    form: Format = "markdown",
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            help="knob=value, or sweep=NAME; a column must meet all that are given. "
            "Default: the sweeps' own baseline if they agree.",
        ),
    ] = None,
    split: Split = None,
    everything: ShowAll = False,
) -> None:
    """Print the tables of several sweeps side by side, a column for each variant. Writes nothing.

    Each dataset has its own tables. Notes and marks name sweeps of other code or another
    numeric environment.

    For instance:

      moleflow-sweep compare results/v7_gamma results/v3_ablation
      moleflow-sweep compare results/a results/b --baseline version=v3
    """
    from orchestrator.reports.compare import compare_sweeps
    from orchestrator.reports.export import render_report

    chosen = check_choice("--format", form, FORMATS)
    show(render_report(compare_sweeps(places, baseline or (), split, everything), chosen), end="")
