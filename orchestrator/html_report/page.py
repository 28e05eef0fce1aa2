"""The page report.html: one HTML file with its data, styles, script and the chart library."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import jinja2
import vl_convert
from markupsafe import Markup, escape

from moleflow.files import write_atomically
from moleflow.settings.knobs import version_settings
from orchestrator.host.whole_numbers import whole_numbers
from orchestrator.html_report.anomaly_maps import anomaly_map_gallery
from orchestrator.html_report.answer_chart import answer_chart
from orchestrator.html_report.best_and_worst import extreme_trials
from orchestrator.html_report.by_defect import defect_section
from orchestrator.html_report.chart import Chart, ChartGroup
from orchestrator.html_report.class_ranks import class_rank_charts
from orchestrator.html_report.cost_vs_quality import cost_charts
from orchestrator.html_report.factors import factor_charts
from orchestrator.html_report.learning_curves import Curve, curve_charts, read_curves
from orchestrator.html_report.page_data import IDENTICAL, PageData, gather_page_data
from orchestrator.html_report.parallel_coordinates import variant_lines
from orchestrator.html_report.per_class import class_charts
from orchestrator.html_report.r_matrices import matrix_groups
from orchestrator.html_report.search import search_section
from orchestrator.html_report.sortable_table import PageSection, sortable_table
from orchestrator.html_report.trials import trial_details, trial_table
from orchestrator.records.sweep_folder import SweepFolder, read_sweep_folder
from orchestrator.reports.lock import text_digest
from orchestrator.reports.tables import Report
from orchestrator.results.store import ResultStore

HERE = Path(__file__).parent
SHOWN_NOTES = 4
"""Notes of a table that are in sight; the others unfold."""
R_MATRICES = "R[i,j] is the metric of task j after task i was learned. A column shows what is forgotten, the last row the final state."


def make_page(folder: Path, report: Report, name: str = "report") -> Path:
    """Write NAME.html for the report of a results folder, and return its path.

    Raises:
        InvalidInput: the folder holds no sweep, or the study of its search cannot be opened.
        OSError: the page cannot be written.

    """
    sweep = read_sweep_folder(folder)
    page = gather_page_data(report, ResultStore(folder), version_settings())
    path = folder / f"{name}.html"
    written = _render(page, folder, _search_of(page, folder, sweep))
    write_atomically(path, written.encode(), durable=False)  # It can be made again.
    return path


def _render(page: PageData, folder: Path, of_search: PageSection | None) -> str:
    """Return the page's HTML, without times and paths: equal results give equal bytes."""
    shown = [one.trial for one in extreme_trials(page)] if page.is_large else page.trials
    curves = read_curves(page, {trial.trial_id for trial in shown})
    maps, maps_note = anomaly_map_gallery(page)
    heading, aside = question_and_note(page.report.title)
    sections = _sections(page, curves, maps_note, of_search)
    tables = [one for section in sections for one in section.tables]
    top = answer_chart(page)
    charts = [chart for section in sections for group in section.groups for chart in group.charts]
    charts += [top] if top else []
    data = {
        "names": page.variant_names,
        "tables": [one.content() for one in tables],
        "charts": [chart.content() for chart in charts],
        "details": trial_details(page, curves, folder),
        "maps": maps,
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
        title=page.report.title,
        heading=heading,
        aside=aside,
        shown_notes=SHOWN_NOTES,
        answer=() if page.report.answer is None else page.report.answer.parts,
        top=top,
        facts=[line.partition(": ")[::2] for line in page.report.header],
        sections=sections,
        # The template numbers tables and charts by identity, as two of them may be equal.
        table_of={id(one): k for k, one in enumerate(tables)},
        chart_of={id(one): k for k, one in enumerate(charts)},
        key=id,
        made=_provenance(page),
        policy=_content_security_policy(script, library),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        library=Markup(library),  # noqa: S704
        data=as_script(data),
    )


def charts_of_page(page: PageData, folder: Path, sweep: SweepFolder) -> list[Chart]:
    """Return the charts of a results folder's page, that of the answer first.

    Raises:
        InvalidInput: the study of its search cannot be opened.

    """
    shown = [one.trial for one in extreme_trials(page)] if page.is_large else page.trials
    curves = read_curves(page, {trial.trial_id for trial in shown})
    top = answer_chart(page)
    sections = _sections(page, curves, "", _search_of(page, folder, sweep))
    return [*([top] if top else []), *(chart for one in sections for group in one.groups for chart in group.charts)]


def _search_of(page: PageData, folder: Path, sweep: SweepFolder) -> PageSection | None:
    has_search = sweep.tabled is not None or (folder / "study.journal").exists()
    return search_section(folder, sweep.name, {len(v.seeds) for v in page.variants}) if has_search else None


def question_and_note(title: str) -> tuple[str, str]:
    """Take a title apart: the sweep with its question, and the note in brackets behind it."""
    found = re.fullmatch(r"(.*?\?) \((.*)\)", title)
    return (found[1], f"{found[2][0].upper()}{found[2][1:]}.") if found else (title, "")


def prose(text: str) -> Markup:
    """Return a text as escaped HTML with whole numbers, and `code` between backquotes as code."""
    pieces = re.split(r"`([^`]*)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if k % 2 else escape(whole_numbers(piece))
        for k, piece in enumerate(pieces)
    )


def as_script(data: object) -> Markup:
    """Return data as JSON for a script element; its `<` are escaped, as they could start a tag."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - in JSON `<` occurs in strings only


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # An HTML parser ends a script element at `</script`. It also reads CRLF as LF, after which the
    # script would not have the hash that the policy allows.
    return re.sub("</(?=script)", r"<\\/", bundle, flags=re.IGNORECASE).replace("\r\n", "\n")


def _content_security_policy(*scripts: str) -> str:
    """Return the policy: the page may run its two scripts, show embedded images and send nothing.

    Charts and their tooltips set inline styles. Vega's interpreter evaluates the expressions of
    charts, so that nothing needs 'unsafe-eval'.
    """
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def _sections(
    page: PageData, curves: tuple[Curve, ...], maps_note: str, of_search: PageSection | None
) -> list[PageSection]:
    report = page.report
    tables = tuple(sortable_table(table, page) for table in report.tables)
    sections = [PageSection("tables", "Comparison", _signs(page), tables=tables)] * bool(tables)
    sections += [PageSection("missing", "Not in the tables", notes=report.missing)] * bool(report.missing)
    if page.variants:
        sections += [
            PageSection("factors", "Metric against factor", groups=(factor_charts(page),)),
            _charted("classes", "Class by class", class_charts(page), "No class has a metric."),
            *[_charted("ranks", "Ranks over the classes", of, "") for of in [class_rank_charts(page)] if of],
            *defect_section(page),
            PageSection("matrices", "R matrices", R_MATRICES, groups=matrix_groups(page)),
        ]
        lines = variant_lines(page)
        sections += [_charted("parallel", "Parallel coordinates", lines, "")] * bool(lines)
        if len(page.variants) > 1:
            sections.append(_charted("cost", "Cost against quality", cost_charts(page), "The variants cost the same."))
        sections.append(_charted("curves", "Learning curves", curve_charts(page, curves), "No epochs are stored."))
    if of_search is not None:
        sections.append(of_search)
    intro = "A trial's name opens its configuration, what differs from its baseline, " + (
        "and its error. With so many trials, only the best and the worst show curves, and none shows its log."
        if page.is_large
        else "its learning curves and the end of its log."
    )
    sections.append(PageSection("trials", "Trials", intro, tables=(trial_table(page),)))
    if page.variants:
        sections.append(PageSection("maps", "Anomaly maps", maps_note, gallery=True))
    return sections


def _signs(page: PageData) -> str:
    """Explain the signs behind the names of variants, before the first name that has one."""
    identical = any(caveat.startswith(IDENTICAL) for caveats in page.caveats for caveat in caveats)
    meanings = {
        "† behind a name: a setting differs that is not compared.": bool(page.comparison.confounds),
        "∅ behind a name: identical to another variant.": identical,
    }
    return " ".join(text for text, occurs in meanings.items() if occurs)


def _charted(key: str, title: str, charts: tuple[Chart, ...], missing: str) -> PageSection:
    return PageSection(key, title, groups=(ChartGroup("", charts, "" if charts else missing),))


def _provenance(page: PageData) -> Iterable[tuple[str, str]]:
    lock = page.lock
    yield "command", f"{lock.recipe.command} --html"
    yield "code", lock.recipe.code or "not known"
    yield "report code", lock.report_code
    yield "report", text_digest(page.report.body())  # `older_page` looks for it.
    yield "rows", f"{lock.rows} ({len(lock.trials)} trials)"
    yield from lock.made_with.items()
    parts = {
        "Vega": vl_convert.get_vega_version(),
        "Vega-Lite": vl_convert.get_vegalite_versions()[-1],
        "vega-embed": vl_convert.get_vega_embed_version(),
    }
    named = ", ".join(f"{name} {version}" for name, version in parts.items())
    yield "charts", f"{named}, inside this file (BSD-3-Clause, University of Washington Interactive Data Lab)"
