"""The table of paired comparisons against the baseline: difference, interval, test, effect size, verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.reports.bootstrap import RESAMPLES, read_scores
from orchestrator.reports.differences import Comparison
from orchestrator.reports.notes import same_columns
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.statistics import (
    EFFECT_NAME,
    IMAGES,
    IMAGES_AND_SEEDS,
    NOT_MEASURED,
    SEEDS,
    Paired,
    paired,
)
from orchestrator.results.store import ResultStore

METRIC, METRIC_NAME = "image_auroc", "Mean Image AUROC"

RESAMPLED = {
    IMAGES: (
        f"{RESAMPLES:,} bootstrap resamples of the test images, drawn with replacement within each class, good and "
        "defective images apart, the same draw for both columns and every seed. Seeds are not drawn (fewer than 5 in "
        "common): the interval is about these trained models, and leaves seed noise out"
    ),
    IMAGES_AND_SEEDS: (
        f"{RESAMPLES:,} bootstrap resamples of the test images, drawn with replacement within each class, good and "
        "defective images apart, the same draw for both columns and every seed, and of the seeds in common"
    ),
    SEEDS: "no image is resampled: t interval of the paired differences over the seeds in common",
}
"""What an interval is over, in words."""


@dataclass(frozen=True)
class Against:
    """The comparisons by column, each with the column of its baseline."""

    baselines: dict[int, int]
    found: dict[int, Paired]

    def numbers(self, column: int) -> list[tuple[str, float | None, int]]:
        """The numbers behind one column's comparison as (name, value, n), for the CSV."""
        if column not in self.found:
            return []
        of = self.found[column]
        values = {
            "difference": of.difference,
            "difference_low": of.low,
            "difference_high": of.high,
            "p_wilcoxon": of.p,
            "p_holm": of.p_holm,
            EFFECT_NAME: of.effect,
            "seed_noise": of.noise,
        }
        return [(f"{METRIC}_{name}", value, of.n) for name, value in values.items()]


def against(comparison: Comparison, store: ResultStore, split: str) -> Against:
    """Compare every column that has a baseline beside itself with it, in mean image AUROC.

    Raises:
        InvalidInput: there is no store in the folder.

    """
    baselines = {k: of for k, of in enumerate(comparison.baselines) if of is not None and of != k}
    if not baselines:
        return Against({}, {})
    variants = comparison.variants
    needed = sorted({*baselines, *baselines.values()})
    scores = read_scores(store, {trial.trial_id for k in needed for trial in variants[k].trials}, split)
    results = paired([(variants[of], variants[k]) for k, of in baselines.items()], scores, metric=METRIC)
    return Against(baselines, dict(zip(baselines, results, strict=True)))


def against_table(of: Against, comparison: Comparison, names: Sequence[str], name: str) -> list[Table]:
    """The comparisons as a table, one row a variant; none without a baseline and a column beside it.

    Args:
        names: the columns' names.
        name: what the baseline is called.

    """
    if not of.found:
        return []
    header = (
        "Variant",
        "n",
        "Difference",
        "95 % interval",
        "p (Wilcoxon)",
        "p (Holm)",
        EFFECT_NAME,
        "Seed noise",
        "Verdict",
    )
    rows = tuple((names[k], _cells(result)) for k, result in of.found.items())
    return [Table(f"Against {name}: {METRIC_NAME}", header, rows, _notes(of, comparison))]


def _cells(result: Paired) -> tuple[Cell, ...]:
    texts = (
        str(result.n),
        signed(result.difference),
        interval_text(result.low, result.high),
        ABSENT if result.p is None else f"{result.p:.4f} (floor {result.floor:.4f})",
        ABSENT if result.p_holm is None else f"{result.p_holm:.4f}",
        ABSENT if result.effect is None else f"{result.effect:+.2f}",
        ABSENT if result.noise is None else f"{result.noise:.4f}",
        result.verdict or ABSENT,
    )
    return tuple(Cell(text) for text in texts)


def signed(value: float | None) -> str:
    """A difference with its sign and four decimals."""
    return ABSENT if value is None else f"{round(value, 4) + 0.0:+.4f}"


def interval_text(low: float | None, high: float | None) -> str:
    """An interval as tables show it."""
    return ABSENT if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _notes(of: Against, comparison: Comparison) -> tuple[str, ...]:
    labels = [variant.label for variant in comparison.variants]
    notes = [
        f"Difference: {METRIC_NAME} of the variant minus its baseline's, seed by seed, and the mean over the seeds; "
        "n counts the seeds that both have."
    ]
    uneven = [
        f"`{labels[k]}` on seeds {', '.join(map(str, result.seeds)) or 'none'}"
        for k, result in of.found.items()
        if {comparison.variants[k].seeds, comparison.variants[of.baselines[k]].seeds} != {result.seeds}
    ]
    if uneven:
        notes.append(f"The seeds differ from column to column, and only those in common count: {'; '.join(uneven)}.")
    reasons: dict[str, list[str]] = {}
    for k, result in of.found.items():
        reasons.setdefault(result.resampled, []).append(labels[k])
    for reason, who in reasons.items():
        which = "" if len(reasons) == 1 else f" of {', '.join(f'`{label}`' for label in who)}"
        known = reason in RESAMPLED
        notes.append(f"95 % interval{which}: {RESAMPLED[reason]}." if known else f"No interval{which}: {reason}.")
    tested = [result for result in of.found.values() if result.p is not None]
    if tested:
        floors = {len(r.seeds): 2 / 2 ** len(r.seeds) for r in sorted(tested, key=lambda r: r.n)}
        each = ", ".join(f"{n} seeds {lowest:.4f}" for n, lowest in floors.items())
        notes.append(
            "p: exact Wilcoxon signed-rank test over the seeds, two-sided. It cannot fall below 2/2^n, the floor "
            f"({each}; five seeds 0.0625); differences of exactly 0 are left out and raise it."
        )
        least = min(1.0, len(tested) * min(result.floor for result in tested if result.floor is not None))
        tests = f"{len(tested)} test{'s' * (len(tested) != 1)}"
        notes.append(f"p (Holm): corrected for the {tests} of this table; none of them can fall below {least:.4f}.")
    else:
        notes.append("No test: that takes two seeds in common or more, and scores that differ.")
    notes.append(
        f"{EFFECT_NAME}: Cohen's effect size of paired data, the mean of the differences over their standard deviation "
        "between seeds. Seed noise: two standard deviations of our own seeds, pooled over both columns."
    )
    quiet = [labels[k] for k, result in of.found.items() if result.verdict == NOT_MEASURED]
    if quiet:
        notes.append(
            f"{NOT_MEASURED}: {', '.join(f'`{label}`' for label in quiet)}: the whole interval lies within seed noise."
        )
    return (*notes, *same_columns(comparison)[1:])
