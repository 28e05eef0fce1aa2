"""The page as one file: sections and numbers into the template, with styles, script and the chart library inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import vl_convert
from markupsafe import Markup, escape

from orchestrator.html_report import search
from orchestrator.html_report.anomaly_maps import gallery
from orchestrator.html_report.best_and_worst import extremes
from orchestrator.html_report.chart import Chart, ChartGroup
from orchestrator.html_report.cost_vs_quality import cost_charts
from orchestrator.html_report.factors import factor_charts
from orchestrator.html_report.learning_curves import Curve, curve_charts, read_curves
from orchestrator.html_report.page_data import NO_EFFECT, PageData
from orchestrator.html_report.parallel_coordinates import variant_lines
from orchestrator.html_report.per_class import class_charts
from orchestrator.html_report.r_matrices import matrix_groups
from orchestrator.html_report.sortable_table import SortableTable, sortable_table
from orchestrator.html_report.trials import trial_details, trial_table
from orchestrator.reports.notes import DATASETS
from orchestrator.reports.tables import write_text

HERE = Path(__file__).parent
FILE = "report.html"


@dataclass(frozen=True)
class PageSection:
    """A part of the page under a heading of its own."""

    id: str
    title: str
    intro: str = ""
    sheets: tuple[SortableTable, ...] = ()
    groups: tuple[ChartGroup, ...] = ()
    notes: tuple[str, ...] = ()
    gallery: bool = False


def write_page(evidence: PageData, folder: Path, name: str, searched: bool) -> Path:
    """Write report.html into the results folder, atomically, and say where it is.

    Args:
        evidence: what the page is about.
        folder: the results folder.
        name: the sweep's.
        searched: whether the sweep is a search.

    Raises:
        InvalidInput: the study of a search cannot be opened.
        OSError: the folder cannot be written.

    """
    path = folder / FILE
    write_text(path, render_page(evidence, folder, name, searched))
    return path


def render_page(evidence: PageData, folder: Path, name: str, searched: bool) -> str:
    """The page's HTML. It holds no time and no path, so that equal results make equal bytes."""
    curves = _curves(evidence)
    pictures = gallery(evidence)
    sections = _sections(evidence, curves, pictures.note, search.search_charts(folder, name) if searched else None)
    sheets = [one for section in sections for one in section.sheets]
    charts = [chart for section in sections for group in section.groups for chart in group.charts]
    data = {
        "names": evidence.names,
        "sheets": [one.content() for one in sheets],
        "charts": [chart.content() for chart in charts],
        "details": trial_details(evidence, curves, folder),
        "gallery": {"shows": pictures.shows, "pictures": pictures.pictures, "masks": pictures.masks},
    }
    script, library = (HERE / "page.js").read_text(encoding="utf-8"), _library()
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["prose"] = prose
    template = environment.from_string((HERE / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=evidence.report.title,
        facts=[line.partition(": ")[::2] for line in evidence.report.header],
        warnings=_warnings(evidence),
        sections=sections,
        sheet_of={id(one): k for k, one in enumerate(sheets)},
        chart_of={id(one): k for k, one in enumerate(charts)},
        key=id,
        made=_made(evidence),
        policy=_policy(script, library),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        library=Markup(library),  # noqa: S704
        data=as_script(data),
    )


def prose(words: str) -> Markup:
    """Words as HTML: everything escaped, and `code` between backquotes set as code."""
    pieces = re.split(r"`([^`]*)`", words)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if k % 2 else escape(piece) for k, piece in enumerate(pieces)
    )


def as_script(data: object) -> Markup:
    """Data as JSON that may stand in a script element: no `<` of it is read as markup."""
    written = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(written.replace("<", "\\u003c"))  # noqa: S704 - in JSON `<` stands in strings alone


@cache
def _library() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    made = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # An HTML parser would end the element at the one, and read line ends otherwise than the hash of the policy at the other.
    return re.sub("</(?=script)", r"<\\/", made, flags=re.IGNORECASE).replace("\r\n", "\n")


def _policy(*scripts: str) -> str:
    """What the page may do: run its own two scripts, show pictures that are in it, and ask nobody for anything.

    Inline styles are allowed because charts and their tooltips set them. Charts evaluate their expressions with Vega's interpreter,
    so nothing needs 'unsafe-eval'.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def _curves(evidence: PageData) -> tuple[Curve, ...]:
    looked_at = (one.trial for one in extremes(evidence)) if evidence.many else evidence.trials
    return read_curves(evidence, {trial.trial_id for trial in looked_at})


def _sections(
    evidence: PageData, curves: tuple[Curve, ...], maps_note: str, searched: search.SearchCharts | None
) -> list[PageSection]:
    report = evidence.report
    several = len(evidence.variants) > 1
    tables = tuple(sortable_table(table, evidence) for table in report.tables)
    found = [PageSection("tables", "Comparison", sheets=tables)] * bool(tables)
    found += [PageSection("missing", "Not in the tables", notes=report.missing)] * bool(report.missing)
    if evidence.variants:
        found += [
            PageSection("factors", "Metric against factor", groups=(factor_charts(evidence),)),
            _charted("classes", "Class by class", class_charts(evidence), "No class has a metric."),
            PageSection("matrices", "R matrices", _R, groups=matrix_groups(evidence)),
        ]
        lines = variant_lines(evidence)
        found += [_charted("parallel", "Parallel coordinates", lines, "")] * bool(lines)
        if several:
            found.append(_charted("cost", "Cost against quality", cost_charts(evidence), "The variants cost the same."))
        found.append(_charted("curves", "Learning curves", curve_charts(evidence, curves), "No epochs are stored."))
    if searched is not None:
        group = ChartGroup("", searched.charts, searched.missing)
        sheets = () if searched.sheet is None else (searched.sheet,)
        found.append(PageSection("search", "The search", sheets=sheets, groups=(group,), notes=searched.notes))
    intro = "A trial's name opens its configuration, what differs from its baseline, " + (
        "and its error; with so many trials, curves are kept for the best and the worst alone, and logs for none."
        if evidence.many
        else "its learning curves and the end of its log."
    )
    found.append(PageSection("trials", "Trials", intro, sheets=(trial_table(evidence),)))
    if evidence.variants:
        found.append(PageSection("maps", "Anomaly maps", maps_note, gallery=True))
    return found


_R = "R[i,j] is the metric of task j after task i was learned: down a column stands what is forgotten, the last row is the final state."


def _charted(key: str, title: str, charts: tuple[Chart, ...], missing: str) -> PageSection:
    return PageSection(key, title, groups=(ChartGroup("", charts, "" if charts else missing),))


def _warnings(evidence: PageData) -> list[str]:
    """What a reader must know before any figure."""
    trials, variants, report = evidence.trials, evidence.variants, evidence.report
    found = [
        f"Data: {words}. No figure on this page says anything of other images."
        for name, words in DATASETS.items()
        if any(trial.dataset == name for trial in trials)
    ]
    if report.missing:
        found.append(f"Incomplete: {report.missing[0]}")
    few = sum(len(variant.seeds) < 3 for variant in variants)
    if few:
        found.append(f"{few} of {len(variants)} variants have fewer than three seeds, and so no t interval over seeds.")
    confounded = len(evidence.comparison.marked)
    if confounded:
        found.append(
            f"{confounded} of {len(variants)} variants are confounded (†): something differs that is not compared."
        )
    without = sum(any(mark.startswith(NO_EFFECT) for mark in marks) for marks in evidence.marks)
    if without:
        found.append(
            f"{without} of {len(variants)} variants (∅) have a setting without effect on training or on scores, by equal digests."
        )
    code = evidence.lock.recipe.code
    stale = sum(trial.code_digest != code for trial in trials)
    if code is not None and stale:
        found.append(f"{stale} of {len(trials)} trials are stale: made by other code than today's ({code[:12]}).")
    return found


def _made(evidence: PageData) -> Iterable[tuple[str, str]]:
    lock = evidence.lock
    yield "command", f"{lock.recipe.command} --html"
    yield "code", lock.recipe.code or "not known"
    yield "report code", lock.report_code
    yield "rows", f"{lock.rows} ({len(lock.trials)} trials)"
    yield from lock.made_with.items()
    parts = {
        "Vega": vl_convert.get_vega_version(),
        "Vega-Lite": vl_convert.get_vegalite_versions()[-1],
        "vega-embed": vl_convert.get_vega_embed_version(),
    }
    named = ", ".join(f"{name} {version}" for name, version in parts.items())
    yield "charts", f"{named}, inside this file (BSD-3-Clause, University of Washington Interactive Data Lab)"
