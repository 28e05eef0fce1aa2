"""The answer at the top of a report: sentences about what was found, made from its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moleflow.errors import counted
from orchestrator.reports.baseline_table import DRAWN, BaselineComparison
from orchestrator.reports.differences import Comparison
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.identical_variants import identity_notes, identity_reason
from orchestrator.reports.notes import DATASETS
from orchestrator.reports.number_format import code_list, difference_text, grouped, interval_text, metric_text
from orchestrator.reports.paired import PairedComparison
from orchestrator.reports.render import ABSENT, Cell, Table
from orchestrator.reports.short_names import legend, versions_explained
from orchestrator.reports.variants import VariantColumn
from orchestrator.reports.verdicts import FEW_SEEDS, LEAST_SEEDS, MOST_MORE_SEEDS, Outcome, has_no_spread, more_seeds

FOUND, ALSO, OVERTURN, NEXT, MIND, NAMES = "Found", "Also", "Could overturn it", "Next", "Caution", "Names"
"""The names of the parts of an answer."""
_METRICS = {"image_auroc": "mean image AUROC", "pixel_auroc": "mean pixel AUROC"}
_RANKED = 12
"""Variants that the ranking shows; of more, the best ones."""
_NAMED = 8
"""Variants up to which the counts of verdicts name them."""
_NEAR_ZERO = 0.25
"""A bound nearer to zero than this share of the difference is named as near."""
_DECIDED = (Outcome.ABOVE, Outcome.BELOW)


@dataclass(frozen=True)
class Answer:
    """The sentences that a reader takes away.

    Attributes:
        parts: (name of the part, its sentences); names are those above, in that order.
        table: the variants, the best first; None where there is nothing to rank.
    """

    parts: tuple[tuple[str, str], ...]
    table: Table | None = None

    def part(self, name: str) -> str:
        """Return the sentences of a part; empty if the answer has none."""
        return dict(self.parts).get(name, "")


def answer_of(
    comparison: Comparison,
    compared: Sequence[BaselineComparison],
    missing: Sequence[str] = (),
    current_code: str | None = None,
    is_search: bool = False,
    split: str = "test",
) -> Answer:
    """Return the answer of a report.

    Args:
        comparison: the variants, the baselines, and what else differs.
        compared: the paired comparisons by metric, the one that answers first.
        missing: the lines about trials that are not in the tables.
        current_code: digest of the present code; trials of other code are stale.
        is_search: true if the variants were chosen by a search on validation images.
        split: test | validation, the images that the figures are about.
    """
    variants = comparison.variants
    if not variants:
        return _parts(*_nothing_finished(missing))
    names = legend(variants)
    mind = " ".join(_warnings(comparison, current_code, split))
    judged = [of for of in compared if of.has_differences]
    if not judged:
        found, step = _without_baseline(comparison)
        ranked = _ranking(None, comparison)
        return replace(_parts(found, "", " ".join(_missing_step(missing) or [step]), mind, "", names), table=ranked)
    top = _leading(judged[0])
    found = _headline(judged[0], top, comparison)
    named = [judged[0].baselines[top], top, *[k for k in [_open_above(judged[0], top)] if k is not None]]
    names = " ".join(text for text in (names, versions_explained(variants, named)) if text)
    others = _others(judged[1:], top, variants[top].label)
    also = " ".join([*_counts(judged[0], variants), *_identical(judged[0], top, variants), *others])
    against = " ".join([*_chosen(is_search), *_overturn(judged, top, comparison)])
    step = " ".join([*_missing_step(missing), _next_step(judged[0], top, comparison, is_search)])
    return replace(_parts(found, against, step, mind, also, names), table=_ranking(judged[0], comparison))


def untested_answer(configurations: int) -> Answer:
    """Return the answer of a search of which nothing is tested yet."""
    found = (
        f"No answer on test images: {counted(configurations, 'configuration')} judged on validation images alone, and no "
        "test image was opened after the scan of the data folder."
    )
    step = "search.md ranks them by validation images. Set `finalists` to 1 or more to test the best."
    return _parts(found, "", step, "")


def _parts(found: str, overturn: str = "", step: str = "", mind: str = "", also: str = "", names: str = "") -> Answer:
    texts = {FOUND: found, ALSO: also, OVERTURN: overturn, NEXT: step, MIND: mind, NAMES: names}
    return Answer(tuple((name, text) for name, text in texts.items() if text))


def _nothing_finished(missing: Sequence[str]) -> tuple[str, str, str]:
    why = f" {missing[0]}" if missing else ""
    error = f" The first: {missing[1]}." if len(missing) > 1 else ""
    return f"No answer: no trial is finished.{why}{error}", "", " ".join(_missing_step(missing)) or _RUN_AGAIN


_RUN_AGAIN = "Run the sweep; the same command continues."


_ONLY_OTHER_IMAGES = re.compile(r"not in the tables: [\d,]+ finished without \w+ rows\.$")
"""A count of missing trials that another run would not change."""


def _missing_step(missing: Sequence[str]) -> list[str]:
    """Return what to do about the trials outside the tables; `missing` begins with their count."""
    if not missing or _ONLY_OTHER_IMAGES.search(missing[0]):
        return []
    if " failed" in missing[0]:
        return [
            "`moleflow-sweep logs FOLDER` shows the errors, `moleflow-sweep retry FOLDER` runs failed trials again."
        ]
    return ["Run the same command again: some trials are not in the tables, and finished ones are kept."]


def _largest(of: BaselineComparison, outcome: Outcome | None = None) -> int | None:
    """Return the column with the largest difference to its baseline; of equal ones the first.

    With `outcome`, only columns of that verdict count. None if there is none.
    """
    known = {
        k: result.difference
        for k, result in of.results.items()
        if result.difference is not None and outcome in (None, result.outcome)
    }
    return max(known, key=lambda k: known[k], default=None)


def _leading(of: BaselineComparison) -> int:
    """Return the column that answers: the best of those decided as better, else the largest.

    A column that is identical to its baseline answers only where no other one has a difference.
    """
    differing = replace(of, results={k: r for k, r in of.results.items() if r.outcome is not Outcome.IDENTICAL})
    found = (_largest(of, Outcome.ABOVE), _largest(differing), _largest(of))
    return next(top for top in found if top is not None)


def _open_above(of: BaselineComparison, top: int) -> int | None:
    """Return the column with the largest difference, if it is undecided and larger than `top`'s."""
    highest = _largest(of)
    is_open = highest is not None and of.results[highest].outcome is Outcome.UNDECIDED
    return highest if is_open and highest != top else None


def _headline(of: BaselineComparison, top: int, comparison: Comparison) -> str:
    """Return the sentence about the best variant and its baseline."""
    variants, result, metric = comparison.variants, of.results[top], _METRICS[of.metric]
    assert result.difference is not None and result.baseline is not None, "it was chosen for its difference"
    name, base = f"`{variants[top].label}`", f"the baseline `{variants[of.baselines[top]].label}`"
    reached = result.baseline + result.difference
    numbers = (
        f"{metric} {metric_text(reached)} against {metric_text(result.baseline)}, a difference of {_sized(result)}"
    )
    # Identical ones are named apart, and are no rivals.
    differing = [k for k, each in of.results.items() if each.outcome is not Outcome.IDENTICAL]
    alone = len(differing) <= 1
    if result.outcome is Outcome.ABOVE:
        return f"{name} is better than {base}: {numbers}.{_over_images(result, of.split)}{_higher(of, top, variants)}"
    if result.outcome is Outcome.BELOW:
        if alone:
            return f"{name} is worse than {base}: {numbers}."
        if any(of.results[k].outcome is not Outcome.BELOW for k in differing):
            return f"No variant is above {base}. The nearest is {name}, and it is worse: {numbers}."
        every = "Every variant" if len(of.results) == len(differing) else "Every variant that is not identical"
        return f"{every} is worse than {base}. The nearest is {name}: {numbers}."
    if result.outcome is Outcome.WITHIN:
        if result.difference <= 0 and not alone:
            return f"No variant is above {base}. The nearest, {name}, differs by less than seed noise: {numbers}."
        which = name if alone else f"{name}, the best variant,"
        return f"{which} differs from {base} by less than seed noise: {numbers}."
    if result.outcome is Outcome.IDENTICAL:
        which = f"{name} is" if len(of.results) == 1 else f"No variant differs from its baseline: {name} is"
        why = identity_reason(variants[of.baselines[top]], variants[top])
        return f"{which} identical to {base}: equal scores, bit by bit ({metric} {metric_text(reached)}); {why}."
    if result.outcome is Outcome.SATURATED:
        return f"Saturated: {metric} is 1 for {name} and {base}, so these images tell no difference."
    if result.difference <= 0:
        return f"No variant is above {base}. The nearest is {name}: {numbers}: undecided."
    sizes = (
        f"{metric_text(reached)} against {metric_text(result.baseline)} for {base}, a difference of {_sized(result)}"
    )
    return f"Undecided: {name} has the highest {metric}, {sizes}."


def _over_images(result: PairedComparison, split: str) -> str:
    """Return that other images may decide otherwise, if the interval over images says so."""
    bounds = result.bounds
    if bounds is None or result.resampled not in DRAWN or not bounds.low <= 0 <= bounds.high:
        return ""
    return f" That holds over seeds; over other {split} images it is open ({interval_text(bounds.low, bounds.high)})."


def _higher(of: BaselineComparison, top: int, variants: Sequence[VariantColumn]) -> str:
    """Return the variant with a larger difference that is undecided, if there is one."""
    higher = _open_above(of, top)
    if higher is None:
        return ""
    size = _sized(of.results[higher], False)
    return f" The mean of `{variants[higher].label}` is higher still, but undecided: a difference of {size}."


def _sized(result: PairedComparison, with_family: bool = True) -> str:
    """Return a difference with the interval that carries its verdict, or why it has none."""
    text = difference_text(result.difference)
    seeds = counted(result.n, "seed")
    if result.joint_low is None or result.joint_high is None:
        return f"{text} ({seeds}, so no interval over seeds)" if result.n < LEAST_SEEDS else f"{text} ({seeds})"
    if has_no_spread(result.differences):
        return f"{text} (the same for each of {seeds}, so the interval has no width)"
    # Bounds that round to zero are shown finer, as the side of zero is the verdict.
    low, high = result.joint_low, result.joint_high
    fine = f"{low:+.2g} to {high:+.2g}" if 0 < min(abs(low), abs(high)) < 0.00005 else interval_text(low, high)
    family = "" if result.family == 1 or not with_family else f", corrected for {result.family} comparisons"
    return f"{text} (95% interval {fine} over {seeds}{family})"


def _ranking(of: BaselineComparison | None, comparison: Comparison) -> Table | None:
    """Return the variants by their mean in the metric that answers, the best first.

    A mean is over all seeds of its variant, a difference over those in common with the baseline.
    Confounded variants carry a dagger.
    """
    variants = comparison.variants
    metric = of.metric if of else next((m for m in _METRICS if any(v.values(MEAN, m) for v in variants)), None)
    if metric is None or len(variants) < 2:
        return None
    means = {k: mean for k, v in enumerate(variants) if (mean := v.summary(MEAN, metric).mean) is not None}
    ranked = sorted(means, key=lambda k: (-means[k], k))
    rows = []
    for k in ranked[:_RANKED]:
        result = of.results.get(k) if of else None
        texts = [str(len(variants[k].seeds)), metric_text(means[k])]
        if of and result:
            texts += [difference_text(result.difference), interval_text(result.joint_low, result.joint_high)]
            texts.append(ABSENT if result.outcome is None else result.outcome.value)
        elif of:
            texts += [ABSENT, ABSENT, "baseline" if k in of.baselines.values() else ABSENT]
        better = result is not None and result.outcome is Outcome.ABOVE
        marked = f"{variants[k].label} †" if k in comparison.confounded else variants[k].label
        rows.append((marked, tuple(Cell(text, better and n == 1) for n, text in enumerate(texts))))
    name = _METRICS[metric].removeprefix("mean ")
    header = ("Variant", "n", name[0].upper() + name[1:], *(("Difference", "95 % interval", "Verdict") if of else ()))
    left = len(ranked) - _RANKED
    notes = (f"{counted(left, 'variant')} more, with lower means: see the tables.",) if left > 0 else ()
    return Table("Variants, the best first", header, tuple(rows), notes)


def _counts(of: BaselineComparison, variants: Sequence[VariantColumn]) -> list[str]:
    """Return how many variants have each verdict, if there are several."""
    if len(of.results) < 2:
        return []
    verdicts = grouped(
        (result.outcome, variants[k].label) for k, result in of.results.items() if result.outcome is not None
    )
    if len(verdicts) == 1:
        return [f"The verdict of all {len(of.results)} variants: {next(iter(verdicts)).value}."]
    each = []
    for outcome in Outcome:
        if labels := verdicts.get(outcome):
            named = f" ({code_list(labels)})" if len(labels) <= _NAMED else ""
            each.append(f"{len(labels)} {outcome.value}{named}")
    return [f"Of {len(of.results)} variants against their baseline: {', '.join(each)}."] if each else []


def _identical(of: BaselineComparison, top: int, variants: Sequence[VariantColumn]) -> list[str]:
    """Return the variants identical to their baseline, grouped by the reason."""
    groups = grouped(
        ((base, identity_reason(variants[base], variants[k])), variants[k].label)
        for k, result in of.results.items()
        if result.outcome is Outcome.IDENTICAL and k != top
        for base in (of.baselines[k],)
    )
    return [
        f"{code_list(labels)} {'is' if len(labels) == 1 else 'are'} identical to `{variants[base].label}`: {why}."
        for (base, why), labels in groups.items()
    ]


def _others(others: Sequence[BaselineComparison], top: int, label: str) -> list[str]:
    """Return the same comparison in the other metrics."""
    sentences = []
    for of in others:
        result = of.results[top]
        if result.difference is not None and result.outcome is not None:
            name = _METRICS[of.metric]
            sentences.append(f"In {name}, `{label}` differs by {_sized(result, False)}: {result.outcome.value}.")
    return sentences


def _chosen(is_search: bool) -> list[str]:
    if not is_search:
        return []
    return [
        "The search chose by validation images and tested only its finalists, so no test image took part in the choice."
    ]


def _overturn(judged: Sequence[BaselineComparison], top: int, comparison: Comparison) -> list[str]:
    """Return what speaks against the headline, from the data alone."""
    of = judged[0]
    result = of.results[top]
    sentences = []
    if result.outcome in (Outcome.IDENTICAL, Outcome.SATURATED):
        return []
    if result.outcome in _DECIDED:
        near = min(abs(result.joint_low or 0.0), abs(result.joint_high or 0.0))
        if near < _NEAR_ZERO * abs(result.difference or 0.0):
            sentences.append(f"The interval comes within {near:.4f} of zero, with {counted(result.n, 'seed')}.")
    if result.bounds is not None and result.resampled in DRAWN:
        bounds = result.bounds
        includes = bounds.low <= 0 <= bounds.high
        if result.outcome is Outcome.UNDECIDED:
            could = "Other seeds could, either way"
            could += f"; so could other {of.split} images" if includes else f", more than other {of.split} images"
        else:  # To include zero speaks against better and worse, and for smaller than seed noise.
            speaks_against = includes is not (result.outcome is Outcome.WITHIN)
            could = f"Other {of.split} images {'could' if speaks_against else 'hardly'}"
        sentences.append(
            f"{could}: its 95% interval over resampled {of.split} images, {interval_text(bounds.low, bounds.high)}, "
            f"{'includes' if includes else 'excludes'} zero."
        )
    sentences += _classes_against(of, top, comparison)
    for other in judged[1:]:
        pair = {result.outcome, other.results[top].outcome}
        if pair == set(_DECIDED):
            sentences.append(f"The verdict in {_METRICS[other.metric]} is the opposite.")
    names = [c.name for c in comparison.confounds if top in c.affected]
    if names:
        sentences.append(f"It also differs from its baseline in {code_list(names)} (†).")
    return sentences


def _classes_against(of: BaselineComparison, top: int, comparison: Comparison) -> list[str]:
    """Name the classes in which the difference has the other sign than in the mean."""
    ours, base = comparison.variants[top], comparison.variants[of.baselines[top]]
    mean = of.results[top].difference
    if ours.seeds != base.seeds or not mean:
        return []
    against = []
    for name in ours.classes:
        a, b = base.summary(name, of.metric).mean, ours.summary(name, of.metric).mean
        if name != MEAN and a is not None and b is not None and round(b - a, 4) * mean < 0:
            against.append((b - a, name))
    if not against:
        return []
    against.sort(key=lambda item: -abs(item[0]))
    each = ", ".join(f"`{name}` ({difference_text(size)})" for size, name in against[:3])
    more = f" and {len(against) - 3} more" if len(against) > 3 else ""
    go = "goes" if len(against) == 1 else "go"
    return [f"{len(against)} of {len(ours.classes)} classes {go} the other way: {each}{more}."]


def _next_step(of: BaselineComparison, top: int, comparison: Comparison, is_search: bool) -> str:
    """Return what to do next, from the verdict of the best variant."""
    result = of.results[top]
    name = f"`{comparison.variants[top].label}`"
    base = f"`{comparison.variants[of.baselines[top]].label}`"
    key = "search.final_seeds" if is_search else "seeds"
    if result.outcome is Outcome.UNDECIDED:
        return _seeds_step(result, name, key)
    if result.outcome is Outcome.ABOVE:
        higher = _open_above(of, top)
        also = ""
        if higher is not None:
            also = f" {_seeds_step(of.results[higher], f'`{comparison.variants[higher].label}`', key)}"
        return f"Try {name} on new images before you rely on it; more seeds would hardly change its verdict.{also}"
    if result.outcome is Outcome.BELOW:
        return f"Keep {base}; this verdict needs no more seeds."
    if result.outcome is Outcome.WITHIN:
        keep = f"Keep {base} rather than {name}: their difference is smaller than seed noise, and more seeds would only measure it."
        undecided = _largest(of, Outcome.UNDECIDED)
        if undecided is None:
            return keep
        return f"{keep} {_seeds_step(of.results[undecided], f'`{comparison.variants[undecided].label}`', key)}"
    if result.outcome is Outcome.SATURATED:
        return "Take harder images: every class is solved already."
    return "Compare settings that reach the scores: those in which these variants differ do not."


def _seeds_step(result: PairedComparison, name: str, key: str) -> str:
    more = more_seeds(result.evidence())
    if more is None or result.reason == FEW_SEEDS:
        least = max(LEAST_SEEDS - result.n, 0 if more is None else more)
        would = f"At least {counted(least, 'more seed')} {'is' if least == 1 else 'are'} needed to decide about {name}"
        return f"{would}: set `{key}: {result.n + least}` in the sweep file and run it again; finished trials are kept."
    if more > MOST_MORE_SEEDS:
        return (
            f"Leave it: over {MOST_MORE_SEEDS} more seeds would be needed to decide about {name}. Try a larger change."
        )
    return (
        f"{counted(more, 'more seed')} should be enough to decide about {name}, if they spread as these do: set "
        f"`{key}: {result.n + more}` in the sweep file and run it again; finished trials are kept."
    )


def _without_baseline(comparison: Comparison) -> tuple[str, str]:
    """Return what was found and what to do where no variant can be compared with a baseline."""
    variants = comparison.variants
    metric = next((of for of in _METRICS if any(v.values(MEAN, of) for v in variants)), None)
    if metric is None:
        return (
            "No answer: no variant has an AUROC over all classes.",
            "See the notes for the metrics that are undefined.",
        )
    known = [(s, v) for v in variants if (s := v.summary(MEAN, metric)).mean is not None]
    known.sort(key=lambda item: -(item[0].mean or 0.0))
    texts = [
        f"`{v.label}` {metric_text(s.mean or 0.0)}" + (f" ± {s.sd:.4f}" if s.sd is not None else "") for s, v in known
    ]
    seeds = sorted({s.n for s, _ in known})
    n = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0], "seed")
    if len(variants) == 1:
        found = f"One variant is finished, so nothing is compared: {texts[0]} {_METRICS[metric]} ({n})."
        return found, "Add a variant and name a baseline (`report: baseline:`) to compare."
    found = f"Highest {_METRICS[metric]}: {texts[0]}, then {', '.join(texts[1:3])} ({n}). No difference is tested."
    if any(of is not None for of in comparison.baselines):
        return found, "The variants cannot be compared with their baseline: see the notes."
    return (
        found,
        "Name a baseline in the sweep file (`report: baseline:`) to get differences with intervals and verdicts.",
    )


def _warnings(comparison: Comparison, current_code: str | None, split: str) -> list[str]:
    """Return what a reader has to know before using a number, folded into counts."""
    variants = comparison.variants
    trials = [trial for variant in variants for trial in variant.trials]
    sentences = [
        f"The data are {words}: no figure carries over to other images."
        for name, words in DATASETS.items()
        if any(trial.dataset == name for trial in trials)
    ]
    if split != "test":
        is_drawn = any(variant.settings.get("data.validation_anomalies") == "synthetic" for variant in variants)
        defects = " with drawn defects" if is_drawn else ""
        sentences.append(f"All figures are of {split} images{defects}; no test image has judged this choice.")
    stale = sum(trial.code_digest != current_code for trial in trials)
    if current_code is not None and stale:
        which = f"All {stale} trials" if stale == len(trials) else f"{stale} of {len(trials)} trials"
        sentences.append(f"{which} were made by other code than today's (stale), which may give other numbers.")
    counts = []
    if comparison.confounded:
        many = counted(len(comparison.confounded), "variant")
        counts.append(f"{many} confounded (†: a setting differs that is not compared)")
    if alike := identity_notes(variants):
        counts.append(f"{counted(len(alike), 'group')} of identical variants")
    if flags := {flag for trial in trials for flag in trial.flags}:
        counts.append(f"{counted(len(flags), 'remark')} on training or data, such as: {min(flags)}")
    if counts:
        sentences.append(f"{'; '.join(counts)}. The notes under the tables say more.")
    return sentences
