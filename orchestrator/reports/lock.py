"""The lock at the end of a report: what it was made of and by which code, so that it can be made again and compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moleflow.errors import InvalidInput
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import plain_value

_OPENS, _CLOSES = "\n<!-- lock\n", "\n-->\n"
_KINDS: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "selection": (list, type(None)),
    "baseline": (dict, type(None)),
    "split": (str,),
    "command": (str,),
    "code": (str, type(None)),
    "published": (str, type(None)),
    "report_code": (str,),
    "made_with": (dict,),
    "rows": (str,),
    "trials": (dict,),
    "text": (str,),
}


@dataclass(frozen=True)
class Recipe:
    """What decides a report, beside the stored rows. No time and no path is among it.

    `selection` are the ids of the trials asked for, None for all that are stored; `command` is what made the report;
    `code` is the digest of `moleflow` against which trials were called stale; `published` the digest of the published
    rows that stand in it, None without them.
    """

    title: str
    selection: tuple[str, ...] | None
    baseline: Mapping[str, object] | None
    split: str
    command: str
    code: str | None
    published: str | None


@dataclass(frozen=True)
class Lock:
    """A recipe and what came of it.

    `trials` maps the id of each finished trial to the digest of its rows, `rows` is the digest of these in order,
    `report_code` that of the code that makes reports, and `text` (only once written) that of the report above the lock.
    `made_with` names what else a cell may hang on: the packages that compute intervals and tests, by their versions, and
    what the values of a factor bring, by a digest.
    """

    recipe: Recipe
    trials: Mapping[str, str]
    report_code: str
    made_with: Mapping[str, str]

    @property
    def rows(self) -> str:
        """Digest of the sorted rows."""
        return _sha256(_canonical(dict(self.trials)).encode())

    def comment(self, body: str) -> str:
        """The lock as the comment that ends a report whose text above it is `body`: one key a line."""
        content = asdict(self.recipe) | {
            "report_code": self.report_code,
            "made_with": dict(self.made_with),
            "rows": self.rows,
            "trials": dict(self.trials),
            "text": _sha256(body.encode()),
        }
        # A ">" in a title must not end the comment.
        lines = [f"{json.dumps(key)}: {_canonical(plain_value(value))}" for key, value in content.items()]
        return _OPENS + "{\n" + ",\n".join(lines).replace(">", "\\u003e") + "\n}" + _CLOSES


def make_lock(recipe: Recipe, trials: Sequence[FinishedTrial], brings: object = None) -> Lock:
    """The lock of a report over `trials`.

    Args:
        brings: what the values of factors set by themselves, as JSON.

    """
    settings: dict[int, str] = {}  # Trials mostly share their object of settings.
    for trial in trials:
        if id(trial.settings) not in settings:
            settings[id(trial.settings)] = _sha256(_canonical(trial.settings).encode())
    ordered = sorted(trials, key=lambda trial: trial.trial_id)
    digests = {trial.trial_id: _row_digest(trial, settings[id(trial.settings)]) for trial in ordered}
    return Lock(recipe, digests, report_code(), _made_with(brings))


def inputs_digest(recipe: Recipe, rows: str, brings: object = None) -> str:
    """Digest of all that a report hangs on, known before it is made.

    Args:
        rows: digest of the stored rows, `ResultStore.digest`.
        brings: as for `make_lock`.

    """
    return _sha256(_canonical([plain_value(asdict(recipe)), rows, report_code(), _made_with(brings)]).encode())


def _made_with(brings: object) -> dict[str, str]:
    packages = {name: version(name) for name in ("numpy", "scipy")}
    return packages | {"what versions bring": _sha256(_canonical(plain_value(brings)).encode())[:16]}


def _row_digest(trial: FinishedTrial, settings: str) -> str:
    """Digest of what tables take from a trial's rows: neither when nor by which worker it ran is among it.

    Args:
        settings: digest of the trial's settings.

    """
    values = _sha256(trial.values.table.astype("<f8", copy=False).tobytes())
    own = vars(trial) | {"settings": settings, "classes": trial.classes, "images": trial.images, "values": values}
    return _sha256(_canonical(own).encode())[:16]


@cache
def report_code() -> str:
    """SHA-256 over the Python source that makes reports from stored rows."""
    here = Path(__file__).parent
    total = hashlib.sha256()
    for path in sorted([*here.glob("*.py"), *(here.parent / "results").glob("*.py")]):
        total.update(f"{path.parent.name}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


@dataclass(frozen=True)
class Locked:
    """A report as it was read: the text above its lock, the lock, and the digest that the lock gives of the text."""

    body: str
    lock: Lock
    rows: str
    text: str

    @property
    def edited(self) -> bool:
        """Whether the text is not the one that was locked."""
        return _sha256(self.body.encode()) != self.text


def read_lock(report: str, name: str) -> Locked:
    """Take a report's text and its lock apart.

    Raises:
        InvalidInput: it carries no lock, or a damaged one.

    """
    body, opens, rest = report.rpartition(_OPENS)
    written, closes, _ = rest.partition(_CLOSES.rstrip("\n"))
    remedy = "make it anew with `moleflow-sweep report FOLDER`"
    if not opens or not closes:
        raise InvalidInput(
            f"{name}: carries no lock at its end, so it cannot be verified; give a report.md, or {remedy}"
        )
    try:
        content: Any = json.loads(written)
    except ValueError as error:
        raise InvalidInput(f"{name}: its lock is damaged ({error}); {remedy}") from None
    if isinstance(content, dict):
        content.setdefault("made_with", {})  # Older locks have none.
    wrong = [key for key, kinds in _KINDS.items() if not isinstance(content, dict) or not _fits(content, key, kinds)]
    if wrong or content.keys() != _KINDS.keys():
        raise InvalidInput(
            f"{name}: its lock is damaged (key {(wrong or sorted(content.keys() - _KINDS))[0]}); {remedy}"
        )
    selection = None if content["selection"] is None else tuple(map(str, content["selection"]))
    named = {field.name: content[field.name] for field in fields(Recipe)} | {"selection": selection}
    lock = Lock(Recipe(**named), content["trials"], content["report_code"], content["made_with"])
    return Locked(body, lock, content["rows"], content["text"])


def _fits(content: Mapping[str, object], key: str, kinds: tuple[type, ...]) -> bool:
    value = content.get(key)
    of = value.values() if key in ("trials", "made_with") and isinstance(value, dict) else ()
    return key in content and isinstance(value, kinds) and all(isinstance(words, str) for words in of)


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _canonical(value: object) -> str:
    return _CANONICAL.encode(value)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
