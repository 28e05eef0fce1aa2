"""Make report.html of a results folder."""

from __future__ import annotations

from pathlib import Path

from moleflow.settings.knobs import method_knobs, version_settings
from orchestrator.records import sweep_folder
from orchestrator.reports.tables import Report
from orchestrator.results.store import ResultStore


def make_page(place: Path, made: Report) -> Path:
    """Write report.html of a report that was made of a results folder, and say where it is.

    Raises:
        InvalidInput: the folder holds no sweep, or the study of its search cannot be opened.
        OSError: the page cannot be written.

    """
    from orchestrator.html_report.page import write_page
    from orchestrator.html_report.page_data import gather_page_data

    sweep = sweep_folder.read_sweep_folder(place)
    evidence = gather_page_data(made, ResultStore(place), {"version": method_knobs()}, {"version": version_settings()})
    searched = sweep.tabled is not None or (place / "study.journal").exists()
    return write_page(evidence, place, sweep.name, searched)
