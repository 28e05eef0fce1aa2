"""The table of paired comparisons against the baseline: difference, interval, test, effect size, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.reports.bootstrap import RESAMPLES, ClassScores, read_scores
from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.notes import same_columns
from orchestrator.reports.paired import IMAGES, IMAGES_AND_SEEDS, NOT_MEASURED, SEEDS, PairedComparison, compare_paired
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.statistics import EFFECT_NAME, SIGN_PATTERNS, percentile_coverage
from orchestrator.results.store import ResultStore

COMPARED = {"image_auroc": "Mean Image AUROC", "pixel_auroc": "Mean Pixel AUROC"}
"""The metrics that are compared, each in a table, and a family of tests, of its own."""

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
    SEEDS: (
        "t interval of the paired differences over the seeds in common, and over seeds alone: no image is resampled, so it "
        "says nothing of other test images"
    ),
}
"""What an interval is over, in words."""


@dataclass(frozen=True)
class BaselineComparison:
    """The comparisons in one metric by column, each with the column of its baseline."""

    metric: str
    baselines: Mapping[int, int]
    found: Mapping[int, PairedComparison]

    def numbers(self, column: int) -> list[tuple[str, float | None, int]]:
        """The numbers behind one column's comparison as (name, value, n), for the CSV."""
        if column not in self.found:
            return []
        of = self.found[column]
        values = {
            "difference": of.difference,
            "difference_low": of.low,
            "difference_high": of.high,
            "difference_t_low": of.seed_low,
            "difference_t_high": of.seed_high,
            "p_wilcoxon": of.p,
            "p_holm": of.p_holm,
            EFFECT_NAME: of.effect,
            "seed_noise": of.noise,
        }
        return [(f"{self.metric}_{name}", value, of.n) for name, value in values.items()]


def compare_with_baseline(comparison: Comparison, store: ResultStore, split: str) -> list[BaselineComparison]:
    """Compare every column that has a baseline beside itself with it, in each metric of `COMPARED` that any column has.

    Raises:
        InvalidInput: there is no store in the folder.

    """
    return compare_with_baseline_by(comparison, lambda trial_ids: read_scores(store, trial_ids, split))


def compare_with_baseline_by(
    comparison: Comparison, read: Callable[[set[str]], Mapping[str, Mapping[str, ClassScores]]]
) -> list[BaselineComparison]:
    """The same with a function that reads the image scores of trials, from wherever they are stored."""
    baselines = {k: of for k, of in enumerate(comparison.baselines) if of is not None and of != k}
    if not baselines:
        return []
    variants = comparison.variants
    needed = sorted({*baselines, *baselines.values()})
    scores = read({trial.trial_id for k in needed for trial in variants[k].trials})
    pairs = [(variants[of], variants[k]) for k, of in baselines.items()]
    return [
        BaselineComparison(
            metric, baselines, dict(zip(baselines, compare_paired(pairs, scores, metric=metric), strict=True))
        )
        for metric in COMPARED
        if any(variant.values(MEAN, metric) for variant in variants)
    ]


def baseline_table(of: BaselineComparison, comparison: Comparison, names: Sequence[str], name: str) -> Table:
    """The comparisons as a table, one row a variant.

    Args:
        names: the columns' names.
        name: what the baseline is called.

    """
    rows = [(names[k], _cells(result)) for k, result in of.found.items()]
    header = tuple(rows[0][1])
    if not any(result.resampled in (IMAGES, IMAGES_AND_SEEDS) for result in of.found.values()):
        header = tuple(head for head in header if head != _OVER_SEEDS)  # It would be the interval once more.
    body = tuple((row, tuple(Cell(cells[head]) for head in header)) for row, cells in rows)
    return Table(f"Against {name}: {COMPARED[of.metric]}", ("Variant", *header), body, _notes(of, comparison))


_OVER_SEEDS = "95 % t over seeds"


def _cells(result: PairedComparison) -> dict[str, str]:
    return {
        "n": str(result.n),
        "Difference": signed(result.difference),
        "95 % interval": interval_text(result.low, result.high),
        _OVER_SEEDS: interval_text(result.seed_low, result.seed_high),
        "p (Wilcoxon)": ABSENT if result.p is None else f"{result.p:.4f} (floor {result.floor:.4f})",
        "p (Holm)": ABSENT if result.p_holm is None else f"{result.p_holm:.4f}",
        EFFECT_NAME: ABSENT if result.effect is None else f"{result.effect:+.2f}",
        "Seed noise": ABSENT if result.noise is None else f"{result.noise:.4f}",
        "Verdict": result.verdict or ABSENT,
    }


def signed(value: float | None) -> str:
    """A difference with its sign and four decimals."""
    return ABSENT if value is None else f"{round(value, 4) + 0.0:+.4f}"


def interval_text(low: float | None, high: float | None) -> str:
    """An interval as tables show it."""
    return ABSENT if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _notes(of: BaselineComparison, comparison: Comparison) -> tuple[str, ...]:
    labels = [variant.label for variant in comparison.variants]
    notes = [
        f"Difference: {COMPARED[of.metric]} of the variant minus its baseline's, seed by seed, and the mean over the seeds; "
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
    drawn = sorted({result.n for result in of.found.values() if result.resampled == IMAGES_AND_SEEDS})
    if drawn:
        each = ", ".join(f"{percentile_coverage(n):.0%} with {n}" for n in drawn)
        notes.append(
            f"Of seed noise alone, an interval over so few drawn seeds covers less than 95 %: {each}. The t interval over the "
            "seeds covers 95 % of it where it is normal."
        )
    if of.metric == "pixel_auroc":
        notes.append("Scores of single pixels are not stored, so there is nothing else to draw from.")
    tested = [result for result in of.found.values() if result.p is not None]
    if tested:
        floors = {len(r.seeds): 2 / 2 ** len(r.seeds) for r in sorted(tested, key=lambda r: r.n)}
        each = ", ".join(f"{n} seeds {lowest:.4f}" for n, lowest in floors.items())
        notes.append(
            "p: exact Wilcoxon signed-rank test over the seeds, two-sided. It cannot fall below 2/2^n, the floor "
            f"({each}{'' if 5 in floors else '; 5 seeds 0.0625'}); differences of exactly 0 are left out and raise it."
        )
        if rough := [labels[k] for k, result in of.found.items() if result.p is not None and not result.exact]:
            notes.append(
                f"p of {', '.join(f'`{label}`' for label in rough)} is not exact: differences tie, and {SIGN_PATTERNS:,} random "
                "sign patterns stand for all."
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
