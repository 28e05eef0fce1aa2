"""The allowed word that a user may have meant, for messages about an unknown one.

`moleflow.errors.did_you_mean` compares spelling alone. It stays for the code that computes
features, whose digest an edit would change.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

_SPELLING = 0.7
_LEAST_LETTERS = 2
_MOST = 3
"""Words that are named if several fit equally well."""
_SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("score", "infer", "inference", "detect", "apply"), "predict"),
        **dict.fromkeys(("train", "start", "resume", "continue"), "run"),
        **dict.fromkeys(("stop", "kill", "abort"), "cancel"),
        **dict.fromkeys(("check", "test"), "doctor"),
        **dict.fromkeys(("ls", "list", "show", "ps"), "status"),
        **dict.fromkeys(("clean", "clear", "prune"), "cache"),
        **dict.fromkeys(("images", "scan"), "data"),
        "gpu": "cuda",
    }
)
"""Words from elsewhere that neither spelling nor parts lead to the right one."""


def hint_at(given: object, allowed: Iterable[str]) -> str:
    """`. Did you mean 'x'?` for the word that was meant; an empty string if none is likely.

    Looked for in this order: a word that is equal but for its case or a plural; the words of which
    `given` has the parts, whole or shortened; a synonym; a word of nearly the same spelling.

    Args:
        given: the user's text.
        allowed: the words that would do.
    """
    words = {word.lower(): word for word in allowed}
    text = str(given).lower()
    found = [one for one in (text, f"{text}s", text.removesuffix("s")) if one in words][:1] or _of_parts(text, words)
    synonym = _SYNONYMS.get(text.lstrip("-"), "")
    found = found or [word for word in (synonym, f"--{synonym}") if word in words]
    found = found or difflib.get_close_matches(text, list(words), n=1, cutoff=_SPELLING)
    shown = [f"'{words[word]}'" for word in found]
    return f". Did you mean {' or '.join(filter(None, (', '.join(shown[:-1]), shown[-1])))}?" if shown else ""


def _of_parts(text: str, words: Iterable[str]) -> list[str]:
    """Return the words that have every part of a text, whole or longer, in its order.

    `val_fraction` has the parts of `validation_fraction`, and `gamma` a part of `focal_gamma` and
    `gamma_dims`. Whole parts count more than begun ones. Then a word is preferred that ends as the
    text does, since the last part names the thing, and then the one with the fewest parts.
    """
    asked = _parts(text)
    if sum(map(len, asked)) < _LEAST_LETTERS:
        return []
    ranks: dict[str, tuple[int, bool, int]] = {}
    for word in words:
        parts = _parts(word)
        rest = iter(parts)
        matched = [next((part for part in rest if part.startswith(one)), None) for one in asked]
        if None not in matched:
            whole = sum(map(str.__eq__, asked, filter(None, matched)))
            ranks[word] = whole, matched[-1] == parts[-1] and asked[-1] == parts[-1], -len(parts)
    best = [word for word in ranks if ranks[word] == max(ranks.values())]
    # Two letters begin too many words, unless they begin only one.
    enough = 1 if len(text) <= _LEAST_LETTERS else _MOST
    return sorted(best) if len(best) <= enough else []


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[\W_]+", text) if part]
