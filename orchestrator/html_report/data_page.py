"""The look at a data root as one HTML file, with thumbnails of images that are suspicious.

The file holds its styles and images. Its policy allows no script and nothing from elsewhere.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from moleflow.data.images import read_image
from moleflow.data.loading import load_mask
from moleflow.data.samples import Sample
from moleflow.data.survey import ClassSurvey, DataSurvey
from moleflow.files import write_atomically

HERE = Path(__file__).parent
SIDE = 160
MOST_PICTURES = 24
"""Pictures under one finding."""
HEAD = ("class", "layout", "training", "test", "masks", "sizes", "modes", "bits", "passed over")


@dataclass(frozen=True)
class Picture:
    """One or two thumbnails side by side, as PNG in base64, and the text under them."""

    images: tuple[str, ...]
    caption: str


@dataclass(frozen=True)
class PictureGroup:
    """The pictures of one finding, and the number of those that are left out."""

    title: str
    pictures: tuple[Picture, ...]
    left_out: int


def write_data_page(survey: DataSurvey, path: Path, not_looked_for: Sequence[str]) -> None:
    """Write the look at a data root as an HTML file.

    Args:
        survey: the look.
        path: the file.
        not_looked_for: the checks that were left out.

    Raises:
        Damaged: an image changed since it was scanned.
        InvalidInput: an image can no longer be read.
        OSError: the file cannot be written.

    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((HERE / "data_page.html").read_text(encoding="utf-8"))
    cannot = [f"{name} cannot be read: {reason}" for name, reason in survey.unreadable.items()]
    written = template.render(
        title=f"Images in {survey.root}",
        notes=[*cannot, *survey.notes],
        not_looked_for=not_looked_for,
        head=HEAD,
        rows=[_row(one) for one in survey.classes],
        groups=[*_groups(survey)],
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
    )
    # A file name may hold bytes that are no text.
    write_atomically(path, written.encode(errors="replace"), durable=False)


def _row(one: ClassSurvey) -> tuple[str, ...]:
    found = one.findings
    shares = f" ({one.shares[0]:.2%} to {one.shares[-1]:.2%} of the pixels)" if one.shares else ""
    return (
        found.name,
        one.layout,
        f"{found.train}",
        ", ".join(f"{kind} {number}" for kind, number in found.kinds.items()),
        f"{len(one.shares)}{shares}",
        *(
            ", ".join(f"{value} ({number})" for value, number in of.items())
            for of in (one.sizes, one.modes, {f"{bits}": number for bits, number in one.bits.items()})
        ),
        ", ".join(map(str, found.passed_over)) or "none",
    )


def _groups(survey: DataSurvey) -> Iterator[PictureGroup]:
    samples = {sample.name: sample for task in survey.tasks for sample in (*task.train, *task.test)}
    for copies in survey.copies:
        pairs = [(samples[copy.image], samples[copy.copy_of]) for copy in copies.copies[:MOST_PICTURES]]
        pictures = [Picture((_image(a), _image(b)), f"{a.name} | {b.name}") for a, b in pairs]
        yield _group(copies.note, pictures, len(copies.copies))
    for task, one in zip(survey.tasks, survey.classes, strict=True):
        for title, names in (
            (f"{task.name}: masks that mark more than half of the image", one.wide_masks),
            (f"{task.name}: masks that mark no pixel", one.empty_masks),
        ):
            if names:
                masked = [samples[name] for name in names[:MOST_PICTURES]]
                yield _group(title, [_with_mask(sample) for sample in masked], len(names))
        if one.findings.narrow_values:
            dark = [sample for sample in (*task.train, *task.test) if sample.largest is not None]
            pictures = [Picture((_image(sample),), sample.name) for sample in dark[:2]]
            yield _group(one.findings.narrow_values, pictures, len(dark))


def _group(title: str, pictures: Iterable[Picture], total: int) -> PictureGroup:
    shown = tuple(pictures)
    return PictureGroup(title, shown, total - len(shown))


def _with_mask(sample: Sample) -> Picture:
    mask = Image.fromarray(load_mask(sample, SIDE).astype(np.uint8) * 255)
    return Picture((_image(sample), _png(mask)), f"{sample.name} | its mask, white is defective")


def _image(sample: Sample) -> str:
    return _png(Image.fromarray(read_image(sample.path, SIDE, "bilinear", sample.digest, sample.value_range)))


def _png(image: Image.Image) -> str:
    content = BytesIO()
    image.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")
