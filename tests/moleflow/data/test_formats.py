from __future__ import annotations

from pathlib import Path

import pytest
from PIL import features

from moleflow.data import formats
from moleflow.data.formats import FORMATS, SUFFIXES, format_names, name_says, why_not_read


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "b.jpeg", "c.jpe", "d.jfif", "e.bmp", "f.tif", "g.TIFF"])
def test_names_of_images_that_every_pillow_reads(name: str) -> None:
    assert name_says(Path("folder") / name) == "read"


@pytest.mark.parametrize("name", ["a.gif", "b.HEIC", "c.dcm", "d.jp2", "e.dng"])
def test_names_of_images_that_we_do_not_read(name: str) -> None:
    assert name_says(Path(name)) == "not read"
    assert why_not_read(Path(name)).startswith(f"{Path(name).suffix.lower()} is not a format that is read (.png, ")


@pytest.mark.parametrize("name", ["a.txt", "readme", "a.png.md5", ".png", "Thumbs.db", "a.json"])
def test_names_of_other_files(name: str) -> None:
    assert name_says(Path(name)) == "no image"


@pytest.mark.parametrize("name", ["webp", "avif"])
def test_formats_that_pillow_may_lack_are_read_where_it_has_them(name: str) -> None:
    built_in = name in features.modules and features.check(name)
    assert (name.upper() in FORMATS) == (f".{name}" in SUFFIXES) == bool(built_in)


def test_a_format_that_pillow_lacks_is_said_to_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FORMATS", ("PNG", "JPEG", "BMP", "TIFF"))
    monkeypatch.setattr(formats, "SUFFIXES", (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"))
    assert format_names() == "PNG, JPEG, BMP or TIFF"
    assert name_says(Path("a.avif")) == "not read"
    reason = "the installed Pillow was built without AVIF; install a newer Pillow, or convert it to PNG"
    assert why_not_read(Path("a.avif")) == reason
