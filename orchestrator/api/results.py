"""The results of a sweep, for Python: stored tables, and the report's comparison as objects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from moleflow.errors import InvalidInput
from moleflow.suggestions import hint_at
from orchestrator.api.python_words import python_words
from orchestrator.records.sweep_folder import SweepFolder, read_sweep_folder

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

    from orchestrator.reports.baseline_table import BaselineComparison
    from orchestrator.reports.differences import Comparison
    from orchestrator.reports.variants import VariantColumn

TableName = Literal["trials", "metrics", "scores", "curves", "attempts"]
SplitName = Literal["test", "validation"]


@dataclass(frozen=True)
class VariantSummary:
    """A variant: one configuration, with the seeds that finished.

    Attributes:
        label: its short name, as in the report.
        factors: {knob: value} of all that the sweep varies.
        seeds: the seeds.
        trial_ids: the trial of each seed.
        mean: {metric: mean over classes and seeds, in [0, 1]}; None where a class or seed lacks it.
        sd: {metric: standard deviation of the means over classes, over the seeds}; None for one.
    """

    label: str
    factors: Mapping[str, object]
    seeds: tuple[int, ...]
    trial_ids: tuple[str, ...]
    mean: Mapping[str, float | None]
    sd: Mapping[str, float | None]


@dataclass(frozen=True)
class VariantDifference:
    """A variant against its baseline in one metric, over the seeds that both have.

    Attributes:
        variant: the label of the variant.
        baseline: the label of its baseline.
        metric: the metric; means over classes are compared.
        n: number of seeds in common.
        difference: mean of variant minus baseline; None where nothing can be compared.
        low, high: the simultaneous 95 % interval, which carries the verdict; None below three
            seeds.
        p_holm: p of the Wilcoxon signed-rank test, corrected by Holm's method; None without a test.
        verdict: better, worse, smaller than seed noise, identical, saturated or undecided; None
            where nothing can be compared.
        text: the verdict as in the report, with what would decide it.
        by_seed: {seed: variant minus baseline}.
    """

    variant: str
    baseline: str
    metric: str
    n: int
    difference: float | None
    low: float | None
    high: float | None
    p_holm: float | None
    verdict: str | None
    text: str
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class SweepComparison:
    """The comparison of a report.

    Attributes:
        variants: the variants, in the order of the report's tables.
        differences: those with a baseline, metric by metric.
    """

    variants: tuple[VariantSummary, ...]
    differences: tuple[VariantDifference, ...]

    def difference(self, variant: str, metric: str = "image_auroc") -> VariantDifference:
        """Return the difference of a variant in a metric.

        Args:
            variant: its label.
            metric: image_auroc or pixel_auroc.

        Raises:
            InvalidInput: there is none, as for a baseline.
        """
        for one in self.differences:
            if (one.variant, one.metric) == (variant, metric):
                return one
        known = sorted({one.variant for one in self.differences})
        raise InvalidInput(
            f"variant: given '{variant}' in {metric}, allowed: {', '.join(known) or 'none'}{hint_at(variant, known)}"
        )

    def pandas(self) -> pandas.DataFrame:
        """Return one row for each variant and metric, as a pandas data frame.

        Columns: `variant`, `metric`, `seeds` (their number), `trial_ids`, `mean`, `sd`, and the
        attributes of `VariantDifference` from `baseline` to `verdict`, empty for a baseline.
        """
        import pandas

        by_key = {(one.variant, one.metric): one for one in self.differences}
        rows = []
        for variant in self.variants:
            for metric, mean in variant.mean.items():
                row = {"variant": variant.label, "metric": metric, "seeds": len(variant.seeds)}
                of = by_key.get((variant.label, metric))
                rows.append(
                    row
                    | {"trial_ids": variant.trial_ids, "mean": mean, "sd": variant.sd[metric]}
                    | {name: None if of is None else getattr(of, name) for name in _OF_DIFFERENCE}
                )
        return pandas.DataFrame(rows)


_OF_DIFFERENCE = ("baseline", "n", "difference", "low", "high", "p_holm", "verdict")


@dataclass(frozen=True)
class SweepResults:
    """The results folder of a sweep. Every call reads what is stored at that moment.

    Attributes:
        folder: the folder.
    """

    folder: Path

    @cached_property
    def sweep(self) -> SweepFolder:
        """The latest plan: name, baseline, trials and their labels."""
        return read_sweep_folder(self.folder)

    def table(self, name: TableName) -> pyarrow.Table:
        """Return a stored table with the rows that count of the planned trials, as Arrow.

        results/README.md explains the columns. `trials` has one row a trial, with knobs and final
        metrics as columns. `metrics` and `scores` hold test and validation images: keep one
        `split`. `to_pandas` and `polars.from_arrow` take a table on.

        Raises:
            InvalidInput: there is no such table, or nothing is stored.
        """
        from orchestrator.reports.export import rows_to_export

        if name not in get_args(TableName):
            allowed = get_args(TableName)
            raise InvalidInput(f"table: given '{name}', allowed: {' | '.join(allowed)}{hint_at(name, allowed)}")
        return rows_to_export(self.folder, name)

    def pandas(self, name: TableName) -> pandas.DataFrame:
        """Return a stored table as a pandas data frame; `table` says more."""
        frame: pandas.DataFrame = self.table(name).to_pandas()
        return frame

    def polars(self, name: TableName) -> polars.DataFrame:
        """Return a stored table as a polars data frame; `table` says more."""
        import polars

        frame = polars.from_arrow(self.table(name))
        assert isinstance(frame, polars.DataFrame), "a table is no single column"
        return frame

    def comparison(self, split: SplitName | None = None) -> SweepComparison:
        """Return the comparison of the report, from what is stored now.

        Args:
            split: test | validation, the images that it is about; None = test, or validation where
                no trial scored test images.

        Raises:
            InvalidInput: no such split, or the folder holds no results.
        """
        if split not in (None, *get_args(SplitName)):
            raise InvalidInput(f"split: given '{split}', allowed: {' | '.join(get_args(SplitName))}")
        with python_words():
            return _comparison(self.folder, self.sweep, split)

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Lines about planned trials that have no result, with their errors; empty if all have."""
        from orchestrator.reports.make import stored_report

        return stored_report(self.folder, self.sweep).missing

    def report(self) -> str:
        """Return the report as Markdown, made from what is stored now."""
        from orchestrator.reports.make import stored_report

        return stored_report(self.folder, self.sweep).body()


def load_results(folder: str | Path) -> SweepResults:
    """Return the results of a sweep.

    Args:
        folder: a results folder, such as results/v7_gamma.

    Raises:
        InvalidInput: no such folder, or it holds no sweep.
    """
    found = SweepResults(Path(folder).expanduser())
    with python_words():
        _ = found.sweep  # A wrong folder is refused here, and not at the first use.
    return found


def _comparison(folder: Path, sweep: SweepFolder, given: str | None) -> SweepComparison:
    from moleflow.settings.knobs import version_settings
    from orchestrator.reports.baseline_table import compare_with_baselines
    from orchestrator.reports.bootstrap import read_scores
    from orchestrator.reports.differences import compare_variants
    from orchestrator.reports.finished_trials import default_split, finished_trials
    from orchestrator.reports.variants import comparable_means, group_variants
    from orchestrator.reports.yardstick import set_apart
    from orchestrator.results.store import ResultStore

    store = ResultStore(folder)
    planned = set(sweep.compared)
    split = given or default_split(store, planned)
    trials, _ = set_apart(finished_trials(store, planned, split))
    others = "variant" if sweep.tabled is None else "finalist"
    baseline = dict(sorted(sweep.baseline.items()))
    comparison = compare_variants(group_variants(comparable_means(trials)), baseline, version_settings(), others)
    compared = compare_with_baselines(comparison, lambda trial_ids: read_scores(store, trial_ids, split), split)
    differences = [one for of in compared for one in _differences_of(of, comparison)]
    return SweepComparison(tuple(map(_summary, comparison.variants)), tuple(differences))


def _summary(variant: VariantColumn) -> VariantSummary:
    from orchestrator.reports.final_metrics import BY_CLASS, MEAN

    summaries = {metric: variant.summary(MEAN, metric) for metric in BY_CLASS}
    return VariantSummary(
        variant.label,
        dict(variant.factors),
        variant.seeds,
        tuple(trial.trial_id for trial in variant.trials),
        {metric: of.mean for metric, of in summaries.items()},
        {metric: of.sd for metric, of in summaries.items()},
    )


def _differences_of(compared: BaselineComparison, comparison: Comparison) -> list[VariantDifference]:
    labels = [variant.label for variant in comparison.variants]
    return [
        VariantDifference(
            variant=labels[column],
            baseline=labels[compared.baselines[column]],
            metric=compared.metric,
            n=of.n,
            difference=of.difference,
            low=of.joint_low,
            high=of.joint_high,
            p_holm=of.p_holm,
            verdict=None if of.outcome is None else of.outcome.value,
            text=of.verdict(),
            by_seed=dict(zip(of.seeds, of.differences, strict=False)),
        )
        for column, of in compared.results.items()
    ]
