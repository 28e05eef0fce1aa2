"""The image formats that we read, and how a file's name tells them apart from others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from PIL import features

_SUFFIXES_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "PNG": (".png",),
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
        "BMP": (".bmp",),
        "TIFF": (".tif", ".tiff"),
        "WEBP": (".webp",),
        "AVIF": (".avif",),
    }
)
_OPTIONAL = ("WEBP", "AVIF")  # Pillow reads these only if it was built with their libraries.


def _is_built_in(name: str) -> bool:
    # Pillow raises for a feature that it does not know, such as AVIF before 11.3.
    return name not in _OPTIONAL or (name.lower() in features.modules and bool(features.check_module(name.lower())))


FORMATS = tuple(name for name in _SUFFIXES_OF if _is_built_in(name))
"""Pillow's names of the formats that the installed Pillow can read and we accept."""

SUFFIXES = tuple(suffix for name in FORMATS for suffix in _SUFFIXES_OF[name])
"""Suffixes of the files that we read as images, in lower case."""

_OTHER_SUFFIXES = (
    *(".gif", ".apng", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".jpx", ".jxr", ".dcm", ".dicom", ".dib", ".svg"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".psd", ".ico", ".exr", ".hdr", ".fits", ".fit", ".nii"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".btf", ".svs", ".czi", ".lif", ".mrc"),
)

NameSays = Literal["read", "not read", "no image"]


def name_says(path: Path) -> NameSays:
    """The kind of file that a name stands for: an image that we read, one that we do not, or none.

    Only the suffix counts, in any case; the file is not opened.
    """
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "read"
    return "not read" if suffix in (*_OTHER_SUFFIXES, *_missing()) else "no image"


def why_not_read(path: Path) -> str:
    """The reason why an image of this name is not read, and the way out, in a few words."""
    name = _missing().get(path.suffix.lower())
    if name is not None:
        return f"the installed Pillow was built without {name}; install a newer Pillow, or convert it to PNG"
    return f"{path.suffix.lower()} is not a format that is read ({', '.join(SUFFIXES)}); convert it to PNG"


def format_names() -> str:
    """The formats that we read, for messages: "PNG, JPEG, BMP or TIFF"."""
    return f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


def _missing() -> dict[str, str]:
    """{suffix: format} of the formats that we accept and the installed Pillow does not read."""
    return {suffix: name for name in _SUFFIXES_OF if name not in FORMATS for suffix in _SUFFIXES_OF[name]}
