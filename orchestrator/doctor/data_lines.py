"""The look at a data root in lines for people, and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any, TypeVar

from moleflow.data.samples import GOOD
from moleflow.data.survey import ClassSurvey, DataSurvey
from moleflow.errors import counted

MOST_VALUES = 4
Value = TypeVar("Value", str, int)


def data_lines(survey: DataSurvey) -> list[str]:
    """The answer, a line for each class, then the findings."""
    found = len(survey.classes)
    images = sum(one.findings.train + sum(one.findings.kinds.values()) for one in survey.classes)
    layouts = ", ".join(sorted({one.layout for one in survey.classes})) or "none"
    notes = survey.notes
    verdict = counted(len(notes), "finding") if notes else "nothing suspicious" if found else "none can be read"
    classes = f"{found} class{'' if found == 1 else 'es'}"
    head = f"{survey.root}: {classes}, {counted(images, 'image')}, {verdict} (layout: {layouts})"
    lines = [head, *(class_line(one, survey) for one in survey.classes)]
    lines += [f"cannot be read: {', '.join(names)}: {reason}" for reason, names in unreadable_by_reason(survey)]
    lines += [f"finding: {note}" for note in notes]
    return lines + [f"not looked for: {one}" for one in checks_left_out(survey)]


def unreadable_by_reason(survey: DataSurvey) -> list[tuple[str, list[str]]]:
    """Each reason why classes cannot be read, with these classes: one row may stop them all."""
    names: dict[str, list[str]] = {}
    for name, reason in survey.unreadable.items():
        names.setdefault(reason, []).append(name)
    return [*names.items()]


def class_line(one: ClassSurvey, survey: DataSurvey) -> str:
    """One line on a class: its images by kind, masks, sizes, modes and bits."""
    found = one.findings
    defects = {kind: number for kind, number in found.kinds.items() if kind != GOOD}
    kinds = f" ({_counts(defects)})" if defects else ""
    test = f"{found.kinds.get(GOOD, 0)} good and {sum(defects.values())} defective test images{kinds}"
    parts = [f"{found.train} training, {test}", masks_text(one)]
    parts += [_some(one.sizes), _some(one.modes), f"{_some(one.bits)} bits"]
    if len({other.layout for other in survey.classes}) > 1:
        parts.append(f"layout {one.layout}")
    return f"{found.name}: {'; '.join(parts)}"


def masks_text(one: ClassSurvey) -> str:
    """The number of mask files, and the shares of defective pixels."""
    if not one.shares:
        return "no masks"
    low, middle, high = (f"{share:.2g}%" for share in _percent(one))
    number = counted(len(one.shares), "mask")
    return f"{number} of {low}" + (f" to {high} of the pixels (median {middle})" if low != high else " of the pixels")


def checks_left_out(survey: DataSurvey) -> list[str]:
    """The checks that were left out."""
    return [] if survey.near else ["near copies (--near)"]


def data_document(survey: DataSurvey) -> dict[str, Any]:
    """The look as JSON values; docs/data.md lists the keys."""
    return {
        "root": str(survey.root),
        "classes": [_class_document(one) for one in survey.classes],
        "unreadable": dict(survey.unreadable),
        "passed_over_outside": [asdict(group) for group in survey.outside],
        "copies": [asdict(copies) | {"note": copies.note} for copies in survey.copies],
        "not_looked_for": [] if survey.near else ["near copies"],
        "findings": survey.notes,
    }


def _class_document(one: ClassSurvey) -> dict[str, Any]:
    low, middle, high = _percent(one) if one.shares else (None, None, None)
    return {
        "name": one.findings.name,
        "layout": one.layout,
        "train": one.findings.train,
        "test": dict(one.findings.kinds),
        "sizes": dict(one.sizes),
        "modes": dict(one.modes),
        "bits": {str(bits): number for bits, number in one.bits.items()},
        "masks": {"files": len(one.shares), "images": one.findings.masks},
        "defective_percent": {"smallest": low, "median": middle, "largest": high},
        "wide_masks": [asdict(mask) for mask in one.findings.wide_masks],
        "empty_masks": list(one.empty_masks),
        "passed_over": [asdict(group) for group in one.findings.passed_over],
        "split": one.findings.split or None,
        "undefined": dict(one.findings.undefined),
        "narrow_values": one.findings.narrow_values or None,
    }


def _percent(one: ClassSurvey) -> tuple[float, float, float]:
    return 100 * one.shares[0], 100 * median(one.shares), 100 * one.shares[-1]


def _counts(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def _some(numbers: Mapping[Value, int]) -> str:
    """The values, the most frequent first, with their counts if there are several."""
    if len(numbers) == 1:
        return str(next(iter(numbers)))
    shown = [f"{value} ({number})" for value, number in [*numbers.items()][:MOST_VALUES]]
    more = len(numbers) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
