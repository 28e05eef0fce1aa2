"""Names of the folders and labels of normal images, and names that are near to them."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable


def _plain(text: str) -> str:
    """A text in lower case, without accents, wide letters as usual ones."""
    # These two letters are no letter with an accent for Unicode.
    letters = unicodedata.normalize("NFKD", text).casefold().replace("\u0131", "i").replace("\u0142", "l")
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Mn")


def _plain_words(*groups: str) -> frozenset[str]:
    return frozenset(_plain(word) for group in groups for word in group.split())


# Words that sites use for normal images, without blanks and hyphens; a plural with s counts, too.
_WORDS = _plain_words(
    "good ok okay okey normal nominal regular fine pass passed clean cleaned healthy intact correct perfect",
    "flawless faultless undamaged unblemished negative neg truenegative accept accepted acceptable approved",
    "conforming compliant",
    "gut gute gutteil gutteile io inordnung einwandfrei makellos fehlerlos unbeschädigt",
    "bon bonne sain saine conforme normale normaux normales buono buona buoni buone normali sano integro",
    "bueno buena correcto correto bom boa normais goed goede goedgekeurd normaal godkänd godkendt godkjent",
    "dobry dobre dobra prawidłowy normalny vporadku iyi sağlam hatasiz hyvä hibátlan",
    "хороший хорошие хорошо норма нормальный нормальные годен годный годные исправный",
    "好 好品 良好 异常无 異常なし 無缺陷 无缺陷 無瑕疵 无瑕疵",
)
_BEGINNINGS = tuple(_plain_words("正常 良品 合格 正品 정상 양품"))  # Words are not separated there.
# "No defect", "defect-free", "ohne Fehler", "sans défaut".
_NEGATIONS = _plain_words(
    "no non not none zero without free frei ohne kein keine sans senza sin sem zonder uten bez без"
)
_DEFECTS = _plain_words(
    "defect defective fault faulty flaw flawed anomaly anomalies anomalous damage damaged error bad",
    "fehler defekt defekte mangel mängel schaden anomalie défaut defaut difetto difetti defecto defeito anomalia",
    "fout fouten wada wad vada vad дефект дефекта дефектов",
)
# Words that say nothing about the kind of an image.
_FILLERS = _plain_words(
    "image images img imgs picture pictures pic pics photo photos sample samples part parts piece pieces",
    "data test train training set class only all any new old copy copies bak backup bild bilder teil teile",
)
# A label of a binary classification, as programs write it.
_NUMBERS = ("0", "0.0", "false")
_TYPING_ERRORS = ("good", "normal")
_CLOSE = 0.83
_PLAIN = re.compile(r"[^\W\d][\w.-]*")
_NOT_TEXTS = frozenset(
    ["yes", "no", "on", "off", "true", "false", "null", "y", "n"]
)  # YAML reads these as other values.


def nfc(name: str) -> str:
    """The composed form (NFC) of a name; macOS stores file names decomposed (NFD)."""
    return unicodedata.normalize("NFC", name)


def is_near_normal(name: str) -> bool:
    """True if a folder or label of this name could mean normal images.

    Examples: `ok`, `Good`, `normal`, `OK_images`, `defect-free`, `goood`, `ohne Fehler`, `bon`,
    `0`. Not: `not_ok`, `nok`, `abnormal`, `no_good`.
    """
    if name.strip().casefold() in _NUMBERS:
        return True
    words = [word for word in re.split(r"[\W_\d]+", _plain(name)) if word]
    if _is_normal("".join(words)):
        return True
    left = [word for word in words if word not in _FILLERS]
    defects = [word for word in left if word not in _NEGATIONS]
    if defects and len(defects) < len(left):
        return all(_is_one_of(word, _DEFECTS) for word in defects)
    return bool(left) and all(map(_is_normal, left))


def _is_normal(word: str) -> bool:
    """True for a word of `_plain` that means a normal image."""
    if _is_one_of(word, _WORDS) or word.startswith(_BEGINNINGS):
        return True
    for negation in _NEGATIONS:
        rest = word.removeprefix(negation) if word.startswith(negation) else word.removesuffix(negation)
        if rest != word and _is_one_of(rest.rstrip("s"), _DEFECTS):
            return True
    # Of a close word with another beginning, such as "abnormal", the meaning is another.
    near = difflib.get_close_matches(word, _TYPING_ERRORS, n=1, cutoff=_CLOSE)
    return bool(near) and word[0] == near[0][0]


def _is_one_of(word: str, words: frozenset[str]) -> bool:
    return word in words or word.removesuffix("s") in words


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
    both = yaml_list([*normal, *near])
    choice = f"`normal_names: {both}` counts its images as normal"
    if normal:
        choice += f", `normal_names: {yaml_list(normal)}` as defective"
    return (
        f"{place}: the {noun} '{name}' could hold normal images under another name; "
        f"say it under base in the sweep file: {choice} (or --set 'normal_names={both}')"
    )


def yaml_list(names: Iterable[str]) -> str:
    """Names as a list in YAML; `--set '...'` has single quotes, so names have double ones."""
    quoted = (name if _PLAIN.fullmatch(name) and name.casefold() not in _NOT_TEXTS else f'"{name}"' for name in names)
    return f"[{', '.join(dict.fromkeys(quoted))}]"
