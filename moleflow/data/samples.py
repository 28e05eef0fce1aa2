"""The samples of a task: image files with labels and masks, named by their contents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moleflow.errors import counted

GOOD = "good"
"""The `defect` of normal images, whatever their folder or label is called."""


@dataclass(frozen=True)
class Sample:
    """One image file.

    Attributes:
        name: posix path relative to the data root.
        path: the image file.
        label: 0 = normal, 1 = defective.
        defect: name of the defect, "good" for normal images.
        mask: the mask file; None for normal images and for classes without masks.
        digest: identity of the image: SHA-256 of its file, and of how it is decoded if unusual.
        mask_digest: identity of the mask.
        redraw: draws a generated image and its mask again after their eviction; None for others.
        more_masks: further mask files of the image and their identities. A pixel is defective if
            any of its masks says so.
        largest: largest value of an image of more than 8 bits; None for others.
        value_range: for such an image, the values that become 0 and 255; None = 0 and 65535.
    """

    name: str
    path: Path
    label: int
    defect: str
    mask: Path | None
    digest: str
    mask_digest: str | None
    redraw: Callable[[], object] | None = field(default=None, compare=False, repr=False)
    more_masks: tuple[tuple[Path, str], ...] = ()
    largest: int | None = None
    value_range: tuple[int, int] | None = None


@dataclass(frozen=True)
class PassedOver:
    """Files of a class that are not read, for one reason.

    Attributes:
        count: number of files.
        reason: the reason, such as "in nested folders".
        where: their folders relative to the class, such as "test/good/old/"; may be empty.
    """

    count: int
    reason: str
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return such as `10 in nested folders (test/good/old/)`."""
        shown = ", ".join(self.where[:2]) + (f" and {len(self.where) - 2} more" if len(self.where) > 2 else "")
        return f"{self.count} {self.reason}" + (f" ({shown})" if shown else "")


@dataclass(frozen=True)
class WideMask:
    """A mask that covers most of its image.

    Attributes:
        name: posix path relative to the data root.
        share: share of the pixels that it marks as defective.
    """

    name: str
    share: float


@dataclass(frozen=True)
class TaskData:
    """One product class.

    Attributes:
        name: the name of its folder.
        train: normal training images.
        test: normal and defective test images.
        digest: over the contents of images and masks; neither the root nor a file name enters it.
        has_masks: True if pixel metrics can be computed.
        passed_over: files of the class that are not read.
        wide_masks: masks that cover most of their image, which inverted masks do.
        empty_masks: names of defective images whose masks mark no pixel.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    digest: str
    has_masks: bool
    passed_over: tuple[PassedOver, ...] = ()
    wide_masks: tuple[WideMask, ...] = ()
    empty_masks: tuple[str, ...] = ()


def wide_masks_note(name: str, wide: Sequence[WideMask], masks: int) -> str:
    """A sentence on masks that cover most of their image; empty if there are none.

    Args:
        name: the class.
        wide: these masks.
        masks: number of images with a mask.
    """
    if not wide:
        return ""
    first = max(wide, key=lambda mask: (mask.share, mask.name))
    return (
        f"{name}: {len(wide)} of {counted(masks, 'mask')} mark more than half of the image as defective, such as "
        f"{first.name} ({first.share:.0%}); if they mark the background, invert them"
    )


def empty_masks_note(name: str, empty: Sequence[str], masks: int) -> str:
    """A sentence on defective images whose masks mark no pixel; empty if there are none.

    Args:
        name: the class.
        empty: their names.
        masks: number of images with a mask.
    """
    if not empty:
        return ""
    given = f"{name}: {len(empty)} of {counted(masks, 'mask')} mark no pixel, such as the one of {empty[0]}"
    return f"{given}; pixel metrics take such an image for normal"
