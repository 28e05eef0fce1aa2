"""The tables of paired comparisons against the baseline, one for each metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from moleflow.errors import counted
from orchestrator.reports.bootstrap import RESAMPLES, SEEDS_DRAWN_FROM, TrialScores
from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.notes import same_columns
from orchestrator.reports.number_format import code_list, difference_text, grouped, interval_text
from orchestrator.reports.paired import IMAGES, IMAGES_AND_SEEDS, SEEDS, PairedComparison, compare_paired
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.statistics import ALPHA, EFFECT_NAME, SIGN_PATTERNS, percentile_coverage
from orchestrator.reports.variants import VariantColumn
from orchestrator.reports.verdicts import LEAST_SEEDS, NO_SPREAD, POWER, Outcome, has_no_spread

COMPARED = {"image_auroc": "Mean Image AUROC", "pixel_auroc": "Mean Pixel AUROC"}
"""The compared metrics. Each has a table, which is one family of tests."""

_DRAWS = (
    "Good and defective images of each class are drawn apart, with replacement, and the draw is the same for both "
    "columns and every seed."
)
_SOURCES = {
    IMAGES: (
        f"{RESAMPLES:,} bootstrap resamples of the {{split}} images. {_DRAWS} Seeds are not drawn (fewer than "
        f"{SEEDS_DRAWN_FROM} in common), so the interval is about these trained models and leaves seed noise out"
    ),
    IMAGES_AND_SEEDS: f"{RESAMPLES:,} bootstrap resamples of the {{split}} images and of the seeds in common. {_DRAWS[:-1]}",
    SEEDS: (
        "t interval of the paired differences over the seeds in common. No image is resampled, so it says nothing of "
        "other {split} images"
    ),
}
"""The source of an interval, in words; `{split}` stands for test or validation."""
DRAWN = (IMAGES, IMAGES_AND_SEEDS)
"""The sources of intervals that have a Monte Carlo error."""


@dataclass(frozen=True)
class BaselineComparison:
    """All comparisons in one metric.

    Attributes:
        metric: its name.
        baselines: {column: the column of its baseline}.
        results: {column: its comparison}.
        split: test | validation, the images that it is about.
    """

    metric: str
    baselines: Mapping[int, int]
    results: Mapping[int, PairedComparison]
    split: str

    @property
    def has_differences(self) -> bool:
        """True if any column has a difference."""
        return any(result.difference is not None for result in self.results.values())

    def csv_values(self, column: int) -> list[tuple[str, float | None, int, str | None]]:
        """Return the numbers of a column, then its verdict, as (name, number, n, verdict)."""
        if column not in self.results:
            return []
        result = self.results[column]
        values: dict[str, float | None] = {
            "difference": result.difference,
            "difference_low": result.low,
            "difference_high": result.high,
            **(_errors(result) if result.resampled in DRAWN else {}),
            "difference_t_low": result.seed_low,
            "difference_t_high": result.seed_high,
            "difference_joint_low": result.joint_low,
            "difference_joint_high": result.joint_high,
            "p_wilcoxon": result.p,
            "p_holm": result.p_holm,
            EFFECT_NAME: result.effect,
            "seed_noise": result.noise,
        }
        numbers = [(f"{self.metric}_{name}", value, result.n, None) for name, value in values.items()]
        return [*numbers, (f"{self.metric}_verdict", None, result.n, result.verdict() or None)]


def _errors(result: PairedComparison) -> dict[str, float | None]:
    return {"difference_low_error": result.low_error, "difference_high_error": result.high_error}


def compare_with_baselines(
    comparison: Comparison, read: Callable[[set[str]], Mapping[str, TrialScores]], split: str
) -> list[BaselineComparison]:
    """Compare each column with its baseline, in each metric of `COMPARED` that any column has.

    Args:
        comparison: the columns and their baselines.
        read: returns the image scores of trials by trial id.
        split: test | validation, the images of the scores.
    """
    baselines = {k: of for k, of in enumerate(comparison.baselines) if of is not None and of != k}
    if not baselines:
        return []
    variants = comparison.variants
    needed = sorted({*baselines, *baselines.values()})
    scores = read({trial.trial_id for k in needed for trial in variants[k].trials})
    pairs = [(variants[of], variants[k]) for k, of in baselines.items()]
    found = []
    for metric in COMPARED:
        if any(variant.values(MEAN, metric) for variant in variants):
            known = [classes_with(metric, a, b) for a, b in pairs]
            results = compare_paired(pairs, scores, known, metric)
            found.append(BaselineComparison(metric, baselines, dict(zip(baselines, results, strict=True)), split))
    return found


def classes_with(metric: str, a: VariantColumn, b: VariantColumn) -> list[str] | None:
    """Return the classes that have the metric, such as those with masks; None for all.

    Variants that lack it in different classes have means that cannot be subtracted: all classes
    are asked for, and the metric is undefined.
    """
    lacking = [{name for name, undefined in v.undefined if undefined == metric} for v in (a, b)]
    if not lacking[0] or lacking[0] != lacking[1] or any(t.values.get((MEAN, metric)) is None for t in a.trials):
        return None
    return [name for name in a.classes if name not in lacking[0]]


def baseline_tables(
    compared: BaselineComparison, comparison: Comparison, names: Sequence[str], baseline: str
) -> tuple[Table, Table]:
    """Return the comparisons in one metric, one row a variant: verdicts, then what else was tested.

    `names` are those of the columns, `baseline` that of their baseline.
    """
    rows = [(names[k], _cells(result)) for k, result in compared.results.items()]
    further: tuple[str, ...] = _FURTHER
    if not any(result.resampled in DRAWN for result in compared.results.values()):
        further = tuple(name for name in further if name != _OVER_SEEDS)  # It would repeat the interval.
    verdicts, tests = (
        tuple((row, tuple(Cell(cells[name]) for name in header)) for row, cells in rows) for header in (_FIRST, further)
    )
    of = f"against {baseline}: {COMPARED[compared.metric]}"
    labels = [variant.label for variant in comparison.variants]
    under = (*_interval_notes(compared, labels), *_test_notes(compared, labels), _EFFECT_NOTE)
    return (
        Table(f"A{of[1:]}", ("Variant", *_FIRST), verdicts, _notes(compared, comparison)),
        Table(f"Intervals and tests {of}", ("Variant", *further), tests, under),
    )


_JOINT = "Simultaneous 95 % t"
_PLAIN = "Plain 95 % interval"
_OVER_SEEDS = "Plain 95 % t"
_FIRST = ("Verdict", "n", "Difference", _JOINT, "Seed noise")
_FURTHER = (_PLAIN, _OVER_SEEDS, "p (Wilcoxon)", "p (Holm)", EFFECT_NAME)
_NOISE_NOTE = "Seed noise: two standard deviations over seeds, pooled over both columns."
_EFFECT_NOTE = (
    f"{EFFECT_NAME}: Cohen's effect size for paired data, the mean of the differences over their standard deviation over "
    "seeds."
)


def _cells(result: PairedComparison) -> dict[str, str]:
    return {
        "n": str(result.n),
        "Difference": difference_text(result.difference),
        _JOINT: interval_text(result.joint_low, result.joint_high),
        _PLAIN: interval_text(result.low, result.high),
        _OVER_SEEDS: interval_text(result.seed_low, result.seed_high),
        "p (Wilcoxon)": ABSENT if result.p is None else f"{result.p:.4f} (floor {result.floor:.4f})",
        "p (Holm)": ABSENT if result.p_holm is None else f"{result.p_holm:.4f}",
        EFFECT_NAME: ABSENT if result.effect is None else f"{result.effect:+.2f}",
        "Seed noise": ABSENT if result.noise is None else f"{result.noise:.4f}",
        # Its numbers stand next to it.
        "Verdict": (result.outcome.value if result.outcome is Outcome.WITHIN else result.verdict()) or ABSENT,
    }


def _notes(compared: BaselineComparison, comparison: Comparison) -> tuple[str, ...]:
    labels = [variant.label for variant in comparison.variants]
    notes = [
        f"Difference: {COMPARED[compared.metric]} of the variant minus that of its baseline, as the mean over the n seeds "
        "that both have."
    ]
    uneven = [
        f"`{labels[k]}` on seeds {', '.join(map(str, result.seeds)) or 'none'}"
        for k, result in compared.results.items()
        if {comparison.variants[k].seeds, comparison.variants[compared.baselines[k]].seeds} != {result.seeds}
    ]
    if uneven:
        notes.append(f"Only the seeds that a variant shares with its baseline count: {'; '.join(uneven)}.")
    pairs = [(comparison.variants[compared.baselines[k]], comparison.variants[k]) for k in compared.results]
    for names in dict.fromkeys(tuple(of) for a, b in pairs if (of := classes_with(compared.metric, a, b))):
        notes.append(f"‡ Over the classes that have the metric: {code_list(names)}.")
    notes += _verdict_notes(compared)
    return (*notes, _NOISE_NOTE, *same_columns(comparison)[1:])


def _verdict_notes(compared: BaselineComparison) -> list[str]:
    """Note what carries the verdicts, and what would decide the undecided ones."""
    judged = [result for result in compared.results.values() if result.joint_low is not None]
    notes = []
    if judged:
        family = counted(judged[0].family, "comparison")
        notes.append(
            f"{_JOINT}: t intervals of the paired differences over the seeds, each at level 1 - {ALPHA}/m for the m = "
            f"{family} of this table (Bonferroni), so that all hold at once in 95 % of tables. They carry the verdicts. "
            f"Plain intervals hold one at a time and carry none."
        )
    notes.append(
        "Verdict, first match wins: identical (equal digests); saturated (1 everywhere); undecided below "
        f"{LEAST_SEEDS} seeds; better or worse (the simultaneous interval excludes zero); smaller than seed noise (it "
        "lies within plus and minus seed noise); undecided."
    )
    if any(result.outcome is Outcome.UNDECIDED for result in compared.results.values()):
        notes.append(
            f"More seeds: as many as would exclude zero or fit into seed noise with a power of {POWER:g}, if the "
            "differences go on with the mean and the spread seen so far."
        )
    if any(result.outcome is not None and has_no_spread(result.differences) for result in compared.results.values()):
        notes.append(
            f"{NO_SPREAD.capitalize()}: the difference is the same for every seed, so the t interval has no width. An exact "
            f"sign test decides: m times 2/2^n has to be at most {ALPHA}."
        )
    return notes


def _interval_notes(compared: BaselineComparison, labels: Sequence[str]) -> list[str]:
    notes = []
    sources = grouped((result.resampled, labels[k]) for k, result in compared.results.items())
    for source, rows in sources.items():
        which = "" if len(sources) == 1 else f" of {code_list(rows)}"
        known = source in _SOURCES
        notes.append(
            f"{_PLAIN}{which}: {_SOURCES[source].format(split=compared.split)}."
            if known
            else f"No interval{which}: {source}."
        )
    if drawn_rows := [(k, result) for k, result in compared.results.items() if result.resampled in DRAWN]:
        each = "; ".join(f"`{labels[k]}` {of.low_error:.5f} and {of.high_error:.5f}" for k, of in drawn_rows)
        notes.append(f"Monte Carlo standard error of the lower and the upper bound of the bootstrap: {each}.")
    drawn = sorted({result.n for result in compared.results.values() if result.resampled == IMAGES_AND_SEEDS})
    if drawn:
        each = ", ".join(f"{percentile_coverage(n):.0%} with {n} seeds" for n in drawn)
        notes.append(
            f"Where seed noise dominates, an interval over so few drawn seeds covers less than 95 %: {each}. The t interval "
            "over the seeds covers 95 % if seed noise is normal."
        )
    if compared.metric == "pixel_auroc":
        notes.append(
            f"Scores of single pixels are not stored, so no interval over {compared.split} images can be given."
        )
    return notes


def _test_notes(compared: BaselineComparison, labels: Sequence[str]) -> list[str]:
    tested = {k: result for k, result in compared.results.items() if result.p is not None}
    if not tested:
        return ["No test: it needs two seeds or more in common, and scores that differ."]
    floors = {n: 2 / 2**n for n in sorted({result.n for result in tested.values()} | {5})}
    each = ", ".join(f"{n} seeds {lowest:.4f}" for n, lowest in floors.items())
    notes = [
        "p: two-sided exact Wilcoxon signed-rank test over the seeds. It cannot fall below its floor of 2/2^n "
        f"({each}). Differences of exactly 0 are left out, which raises the floor."
    ]
    if drawn := [labels[k] for k, result in tested.items() if not result.exact]:
        notes.append(
            f"p of {code_list(drawn)} is not exact: differences tie in size, so {SIGN_PATTERNS:,} random sign patterns "
            "stand for all."
        )
    least = min(1.0, len(tested) * min(result.floor for result in tested.values() if result.floor is not None))
    tests = counted(len(tested), "test")
    return [*notes, f"p (Holm): corrected for the {tests} of this table. It cannot fall below {least:.4f}."]
