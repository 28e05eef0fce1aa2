"""The page report.html of a results folder."""

from __future__ import annotations

from pathlib import Path

from moleflow.settings.knobs import version_settings
from orchestrator.records import sweep_folder
from orchestrator.reports.tables import Report
from orchestrator.results.store import ResultStore


def make_page(folder: Path, report: Report) -> Path:
    """Write report.html for the report of a results folder, and return its path.

    Raises:
        InvalidInput: the folder holds no sweep, or the study of its search cannot be opened.
        OSError: the page cannot be written.

    """
    from orchestrator.html_report.page import write_page
    from orchestrator.html_report.page_data import gather_page_data

    sweep = sweep_folder.read_sweep_folder(folder)
    page = gather_page_data(report, ResultStore(folder), version_settings())
    has_search = sweep.tabled is not None or (folder / "study.journal").exists()
    return write_page(page, folder, sweep.name, has_search)
