"""The table of image AUROC by defect."""

from __future__ import annotations

from orchestrator.html_report.chart import left_out
from orchestrator.html_report.page_data import PageData
from orchestrator.html_report.sortable_table import PageSection, SortableTable
from orchestrator.reports.defects import defect_summary, read_defect_metrics
from orchestrator.reports.number_format import summary_text
from orchestrator.reports.render import MOST_COLUMNS

TITLE = "By defect"
INTRO = "Image AUROC of one kind of defect against all normal test images of its class: the mean over seeds."


def defect_section(page: PageData) -> list[PageSection]:
    """The section; none if no class has two kinds of defect."""
    shown = page.baselines_and_extremes(MOST_COLUMNS)
    variants = [page.variants[k] for k in shown]
    ids = [trial.trial_id for variant in variants for trial in variant.trials]
    metrics = read_defect_metrics(page.store, ids, page.lock.recipe.split)
    kinds = dict.fromkeys(key for of in metrics.values() for key in of)
    classes = [name for name, _ in kinds]
    if len(set(classes)) == len(classes):
        return []
    rows = []
    for name in page.classes:
        for defect in sorted(kind for of_class, kind in kinds if of_class == name):
            summaries = [
                defect_summary([metrics.get(t.trial_id, {}) for t in v.trials], [name], defect, "auroc")
                for v in variants
            ]
            cells = [summary_text(s, len(v.seeds)) for s, v in zip(summaries, variants, strict=True)]
            rows.append([name, defect, *cells])
    names = [page.variant_names[k] for k in shown]
    caveats = {2 + position: page.caveats[k] for position, k in enumerate(shown) if page.caveats[k]}
    table = SortableTable(TITLE, ["Class", "Defect", *names], rows, [False, False, *[True] * len(names)], (), caveats)
    note = left_out(len(shown), len(page.variants), "variants: baseline, best and worst")
    return [PageSection("defects", TITLE, INTRO + note, (table,))]
