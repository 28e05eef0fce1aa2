"""Names of the folders and labels of normal images, and names that are near to them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable

# Words that sites use for normal images, in English and in German, without blanks and hyphens.
_WORDS = frozenset(
    (
        *("good", "goods", "ok", "okay", "okey", "normal", "normals", "nominal", "regular", "fine"),
        *("pass", "passed", "clean", "healthy", "intact", "correct", "perfect", "flawless", "faultless"),
        *("undamaged", "nondefective", "nondefect", "defectfree", "nodefect", "nodefects", "withoutdefect"),
        *("noanomaly", "noanomalies", "anomalyfree", "nonanomalous", "negative", "gut", "io"),
    )
)
# Words that say nothing about the kind of an image.
_FILLERS = frozenset(
    (
        *("image", "images", "img", "imgs", "picture", "pictures", "pic", "pics", "photo", "photos"),
        *("sample", "samples", "part", "parts", "data", "test", "train", "training", "set", "class"),
        *("only", "all", "new", "old"),
    )
)
_CLOSE = 0.85
_PLAIN = re.compile(r"[^\W\d][\w.-]*")
_NOT_TEXTS = frozenset(
    ["yes", "no", "on", "off", "true", "false", "null", "y", "n"]
)  # YAML reads these as other values.


def nfc(name: str) -> str:
    """The composed form (NFC) of a name; macOS stores file names decomposed (NFD)."""
    return unicodedata.normalize("NFC", name)


def is_near_normal(name: str) -> bool:
    """True if a folder or label of this name could mean normal images.

    Examples: `ok`, `Good`, `normal`, `OK_images`, `defect-free`, `goood`. Not: `not_ok`, `nok`,
    `abnormal`, `no_good`.
    """
    words = [word for word in re.split(r"[\W_\d]+", nfc(name).casefold()) if word]
    if "".join(words) in _WORDS:
        return True
    left = [word for word in words if word not in _FILLERS]
    return len(left) == 1 and (left[0] in _WORDS or bool(difflib.get_close_matches(left[0], ["good"], cutoff=_CLOSE)))


def near_name_message(place: str, name: str, normal: Collection[str], near: Collection[str], noun: str) -> str:
    """The message about a name that could mean normal images.

    Args:
        place: the folder or row, for the start of the message.
        name: the name.
        normal: names that count as normal and are there.
        near: all names of the data root that could mean normal images, `name` among them. One list
            decides about all of them.
        noun: "folder" or "label".
    """
    both = _listed([*normal, *near])
    choice = f"`normal_names: {both}` counts its images as normal"
    if normal:
        choice += f", `normal_names: {_listed(normal)}` as defective"
    return (
        f"{place}: the {noun} '{name}' could hold normal images under another name; "
        f"say it under base in the sweep file: {choice} (or --set 'normal_names={both}')"
    )


def _listed(names: Iterable[str]) -> str:
    """Names as a list in YAML; `--set '...'` has single quotes, so names have double ones."""
    quoted = (name if _PLAIN.fullmatch(name) and name.casefold() not in _NOT_TEXTS else f'"{name}"' for name in names)
    return f"[{', '.join(dict.fromkeys(quoted))}]"
