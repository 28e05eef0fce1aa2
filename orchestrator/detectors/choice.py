"""The choice of a trained detector among the trials of a results folder, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moleflow.errors import InvalidInput
from moleflow.settings.knobs import version_settings
from moleflow.suggestions import hint_at
from orchestrator.records.named_trials import named_trials, refuse_several
from orchestrator.records.sweep_folder import SweepFolder, read_sweep_folder
from orchestrator.reports.differences import compare_variants
from orchestrator.reports.final_metrics import MEAN
from orchestrator.reports.finished_trials import FinishedTrial, finished_trials
from orchestrator.reports.stored_trials import stored_trials
from orchestrator.reports.variants import VariantColumn, comparable_means, group_variants
from orchestrator.reports.yardstick import set_apart
from orchestrator.results.detector_files import stored_detectors
from orchestrator.results.store import ResultStore

METRIC = "image_auroc"
VALIDATION, TEST = "validation", "test"


@dataclass(frozen=True)
class BestVariant:
    """The variant with the highest mean image AUROC.

    Attributes:
        variant: its finished trials, one for each seed.
        split: the images that chose it: validation where every variant has such images with
            defects, else test.
        mean: its mean image AUROC on them, over classes and seeds.
        ties: labels of other variants with the same mean.
        tested: its mean image AUROC on the test images, if others chose it; None without one.
        best_tested: the variant with the highest mean on the test images, if it is another one.
    """

    variant: VariantColumn
    split: str
    mean: float
    ties: tuple[str, ...] = ()
    tested: float | None = None
    best_tested: tuple[str, float] | None = None


@dataclass(frozen=True)
class DetectorChoice:
    """A stored detector, and why it was chosen.

    Attributes:
        path: its file.
        trial_id: its trial; None for a file that was named directly.
        reasons: lines for the reader.
    """

    path: Path
    trial_id: str | None
    reasons: tuple[str, ...]


def best_variant(store: ResultStore, sweep: SweepFolder) -> BestVariant | None:
    """Return the best variant of a sweep; None if no finished trial has an image AUROC.

    Memory banks are no variants. Of a search the tested finalists compete, and without finalists
    all its trials.

    Raises:
        InvalidInput: there is no store in the folder, or it is damaged.
    """
    selection = set(sweep.compared or sweep.trial_ids)
    finished = {split: set_apart(finished_trials(store, selection, split))[0] for split in (VALIDATION, TEST)}
    everywhere = {trial.trial_id for trials in finished.values() for trial in trials}
    for split, trials in finished.items():
        having = [trial for trial in trials if trial.values.get((MEAN, METRIC)) is not None]
        # Means on other images cannot be compared, so one split has to have them all.
        if having and (split == TEST or {trial.trial_id for trial in having} == everywhere):
            best = _highest(having, sweep, split)
            return best if best is None or split == TEST else _with_test(best, finished[TEST], sweep)
    return None


def choose_detector(place: Path, trial: str | None = None) -> DetectorChoice:
    """Return the detector that a user means.

    Args:
        place: a results folder, or the file of a detector.
        trial: the id of a trial, its first digits, or its name; None = the best variant's.

    Raises:
        InvalidInput: there is no such folder or trial, or no detector of it is stored.
    """
    if place.is_file():
        if trial is not None:
            raise InvalidInput(f"--trial: {place} is the detector of one trial; leave --trial out, or give its folder")
        return DetectorChoice(place, None, ())
    sweep, store = read_sweep_folder(place), ResultStore(place)
    finished = store.finished()
    stored = {
        trial_id: path
        for (trial_id, attempt), path in stored_detectors(place).items()
        if trial_id in finished and finished[trial_id].attempt == attempt
    }
    if not stored:
        raise InvalidInput(f"{place}: no trained detector is stored; {_REMEDY}")
    if trial is not None:
        trial_id = _trial_of(trial, stored, store, sweep)
        if trial_id not in stored:
            raise InvalidInput(f"--trial: no detector of trial {trial_id} is stored; {_stored_text(stored, sweep)}")
        return DetectorChoice(
            stored[trial_id], trial_id, (f"trial:    {trial_id}, {_label(trial_id, sweep)}, as given",)
        )
    best = best_variant(store, sweep)
    if best is None:
        raise InvalidInput(
            f"{place}: no finished trial has an image AUROC to choose by; give --trial: {_stored_text(stored, sweep)}"
        )
    kept = [one for one in best.variant.trials if one.trial_id in stored]
    if not kept:
        raise InvalidInput(
            f"{place}: no detector of the best variant, {best.variant.label}, is stored; give --trial: "
            f"{_stored_text(stored, sweep)}; or {_REMEDY}"
        )
    return _choose_seed(best, kept, stored)


_REMEDY = (
    "set `keep: best` or `keep: all` in the sweep file and run it into another folder (--out); trained tasks that are "
    "still in the cache are reused"
)


def _highest(trials: Sequence[FinishedTrial], sweep: SweepFolder, split: str) -> BestVariant | None:
    means = _means(trials, sweep)
    if not means:
        return None
    highest = max(mean for mean, _ in means)
    first, *ties = [variant for mean, variant in means if mean == highest]
    return BestVariant(first, split, highest, tuple(variant.label for variant in ties))


def _means(trials: Sequence[FinishedTrial], sweep: SweepFolder) -> list[tuple[float, VariantColumn]]:
    grouped = group_variants(comparable_means(trials))
    others = "variant" if sweep.tabled is None else "finalist"
    variants = compare_variants(grouped, sweep.baseline, version_settings(), others).variants
    return [(mean, variant) for variant in variants if (mean := variant.summary(MEAN, METRIC).mean) is not None]


def _with_test(best: BestVariant, trials: Sequence[FinishedTrial], sweep: SweepFolder) -> BestVariant:
    """Return the variant that validation images chose, with what the test images say."""
    means = _means(trials, sweep)
    own = next((mean for mean, variant in means if variant.label == best.variant.label), None)
    if own is None:
        return best
    highest, first = max(means, key=lambda one: one[0])
    return replace(best, tested=own, best_tested=(first.label, highest) if highest > own else None)


def _choose_seed(best: BestVariant, kept: Sequence[FinishedTrial], stored: Mapping[str, Path]) -> DetectorChoice:
    """Return the seed with the highest validation AUROC; on test images alone, the first seed."""
    label, count = best.variant.label, len(best.variant.trials)
    if best.split == VALIDATION:
        chosen = max(kept, key=lambda one: (one.values[MEAN, METRIC], -one.seed))
        drawn = chosen.settings.get("data.validation_anomalies") == "synthetic"
        by = f"mean image AUROC on validation images{' with drawn defects' if drawn else ''}"
        seed = f"the highest of its {count} seeds on these images ({chosen.values[MEAN, METRIC]:.4f})"
    else:
        chosen = min(kept, key=lambda one: one.seed)
        by = "mean image AUROC on the test images, as the sweep scores no validation images with defects"
        seed = "its first seed with a stored detector, since test images must not choose among seeds"
    seed = "its only seed" if count == 1 else seed
    reasons = [f"variant:  {label}, the highest {by} ({best.mean:.4f})"]
    if best.ties:
        reasons.append(f"          {', '.join(best.ties)} has the same value; the first in the tables is taken")
    if best.split == TEST:
        reasons.append("          so its test figures are likely too good: they chose it")
    reasons += _test_lines(best)
    missing = count - len(kept)
    reasons.append(f"trial:    {chosen.trial_id}, seed {chosen.seed}: {seed}")
    if missing:
        reasons.append(f"          {missing} of its {count} seeds have no stored detector")
    return DetectorChoice(stored[chosen.trial_id], chosen.trial_id, tuple(reasons))


def _test_lines(best: BestVariant) -> list[str]:
    """Return the line on the test images, where validation images chose the variant."""
    if best.tested is None:
        return []
    other = "" if best.best_tested is None else "; {}, the highest there, has {:.4f}".format(*best.best_tested)
    return [f"          on the test images it has {best.tested:.4f}{other}"]


def _trial_of(given: str, stored: Mapping[str, Path], store: ResultStore, sweep: SweepFolder) -> str:
    """Return the trial that a word names; trials of the latest plan come before earlier ones.

    Raises:
        InvalidInput: it names none, or several.
    """
    names = {one.trial_id: one.name for one in stored_trials(store, sweep, (), everything=True)}
    planned = {trial_id: name for trial_id, name in names.items() if trial_id in sweep.trial_ids}
    for group in (planned, names):
        # Of two trials of one name or of the same first digits, the one with a detector is meant.
        found = named_trials(given, {one: name for one, name in group.items() if one in stored})
        found = found or named_trials(given, group)
        refuse_several(given, found)
        if found:
            return found[0]
    near = hint_at(given, [text for one in stored for text in (names[one], one)])
    raise InvalidInput(
        f"--trial: given '{given}', allowed: the id of a trial with a stored detector, its first digits, or its name; "
        f"{_stored_text(stored, sweep)}{near}"
    )


def _label(trial_id: str, sweep: SweepFolder) -> str:
    return sweep.labels.get(trial_id, "of an earlier plan")


def _stored_text(stored: Mapping[str, Path], sweep: SweepFolder) -> str:
    each = [f"{trial_id} ({_label(trial_id, sweep)})" for trial_id in sorted(stored)]
    return "stored are " + ", ".join(each[:5]) + (f" and {len(each) - 5} more" if len(each) > 5 else "")
