"""The lock at the end of a report: its inputs, so that the report can be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.metadata import version
from typing import Any

from moleflow.code_digest import CodeDigests
from moleflow.errors import InvalidInput
from orchestrator.host.provenance import ROOT
from orchestrator.reports.differences import VersionSettings
from orchestrator.reports.finished_trials import FinishedTrial
from orchestrator.reports.number_format import plain_value

_OPENS, _CLOSES = "\n<!-- lock\n", "\n-->\n"
_KEYS: dict[str, tuple[type, ...]] = {
    "title": (str,),
    "selection": (list, type(None)),
    "baseline": (dict, type(None)),
    "split": (str,),
    "command": (str,),
    "code": (str, type(None)),
    "published": (str, type(None)),
    "is_search": (bool,),
    "names": (dict,),
    "report_code": (str,),
    "made_with": (dict,),
    "rows": (str,),
    "trials": (dict,),
    "text": (str,),
}
"""The keys of a lock with the types of their values."""

REPORT_MODULE = "orchestrator.reports.tables"
"""The module that makes a report from stored rows."""
REPORT_CODE = (
    "moleflow.metrics",
    "moleflow.settings.knob_history",
    "moleflow.settings.task_list",
    "orchestrator.host.durations",
    "orchestrator.host.printable_text",
    "orchestrator.reports",
    "orchestrator.results",
    "orchestrator.sweep.baselines",
    "orchestrator.sweep.footing",
)
"""The packages and modules that decide the bytes of a report, if `REPORT_MODULE` imports them."""


@dataclass(frozen=True)
class Recipe:
    """All that decides a report except the stored rows. It holds no time and no path.

    Attributes:
        title: the report's heading.
        selection: ids of the trials that are asked for; None = all that are stored.
        baseline: {knob: value} of the baseline.
        split: test | validation.
        command: the command that makes the report.
        code: digest of `moleflow`; trials made by other code are stale.
        published: digest of the published rows in it; None without them.
        is_search: true if a search chose the trials by validation images.
        names: short names of variants, by trial id, that the search gave.
    """

    title: str
    selection: tuple[str, ...] | None = None
    baseline: Mapping[str, object] | None = None
    split: str = "test"
    command: str = ""
    code: str | None = None
    published: str | None = None
    is_search: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def others(self) -> str:
        """The word for variants that are no baseline."""
        return "finalist" if self.is_search else "variant"


@dataclass(frozen=True)
class Lock:
    """The inputs of a report.

    Attributes:
        recipe: all but the rows.
        trials: {id of a finished trial: digest of its rows}.
        report_code: digest of the code that makes reports.
        made_with: versions of the packages that compute intervals and tests, and a digest of the
            settings that version files set.
    """

    recipe: Recipe
    trials: Mapping[str, str]
    report_code: str
    made_with: Mapping[str, str]

    @property
    def rows(self) -> str:
        """Digest of the rows of all trials."""
        return _digest(dict(self.trials))

    def comment(self, body: str) -> str:
        """Return the lock as the comment under a report's text: one key a line."""
        content = asdict(self.recipe) | {
            "report_code": self.report_code,
            "made_with": dict(self.made_with),
            "rows": self.rows,
            "trials": dict(self.trials),
            "text": text_digest(body),
        }
        # A ">" in a title must not end the comment.
        lines = [f"{json.dumps(key)}: {_canonical(plain_value(value))}" for key, value in content.items()]
        return _OPENS + "{\n" + ",\n".join(lines).replace(">", "\\u003e") + "\n}" + _CLOSES


def make_lock(recipe: Recipe, trials: Sequence[FinishedTrial], version_settings: VersionSettings | None = None) -> Lock:
    """Return the lock of a report over `trials`."""
    # By id(): trials of one configuration mostly share theirs.
    settings = {id(of): _digest(of) for of in {id(trial.settings): trial.settings for trial in trials}.values()}
    digests = {trial.trial_id: _row_digest(trial, settings[id(trial.settings)]) for trial in trials}
    return Lock(recipe, digests, report_code(), _made_with(version_settings))


def inputs_digest(recipe: Recipe, rows: str, version_settings: VersionSettings | None = None) -> str:
    """Return a digest of all that decides a report; `rows` is that of `ResultStore.digest`."""
    return _digest([plain_value(asdict(recipe)), rows, report_code(), _made_with(version_settings)])


def _made_with(version_settings: VersionSettings | None) -> dict[str, str]:
    packages = {name: version(name) for name in ("numpy", "scipy", "scikit-posthocs")}
    # The form in which older locks hold it: the settings that any version sets, then their values.
    versions = None if version_settings is None else {"version": version_settings}
    paths = sorted({path for of in (version_settings or {}).values() for path in of})
    content = [None if versions is None else {"version": paths}, versions]
    from moleflow.settings.knobs import version_explanations

    explained = _digest(version_explanations())[:16]
    return packages | {"what versions bring": _digest(plain_value(content))[:16], "what versions are": explained}


def _row_digest(trial: FinishedTrial, settings: str) -> str:
    """Return the digest of all that tables take from a trial's rows, but no time or worker."""
    # Little-endian on every machine, so that equal values give equal digests.
    values = _sha256(trial.values.own_table.astype("<f8", copy=False).tobytes())
    own = vars(trial) | {"settings": settings, "classes": trial.classes, "images": trial.images, "values": values}
    return _digest(own)[:16]


@cache
def report_code() -> str:
    """Return a digest of the code that makes reports from stored rows.

    It covers the syntax trees of `REPORT_MODULE` and of all it imports from `REPORT_CODE`, without
    docstrings and comments. The texts of notes are code: they are part of a report.
    """
    sources = {}
    for name in REPORT_CODE:
        place = ROOT.joinpath(*name.split("."))
        for path in sorted(place.glob("*.py")) or [place.with_suffix(".py")]:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            sources[module.removesuffix(".__init__")] = path.read_bytes()
    return CodeDigests(sources).of(REPORT_MODULE)


@dataclass(frozen=True)
class WrittenReport:
    """A report as it was read from its file; its lock names the digests of rows and text."""

    body: str
    lock: Lock
    rows: str
    text: str

    @property
    def edited(self) -> bool:
        """True if the text differs from the one that was locked."""
        return text_digest(self.body) != self.text


def read_lock(report: str, name: str) -> WrittenReport:
    """Take the text of a report.md and its lock apart; errors call it `name`.

    Raises:
        InvalidInput: it has no lock, or a damaged one.
    """
    body, opens, rest = report.rpartition(_OPENS)
    written, closes, _ = rest.partition(_CLOSES.rstrip("\n"))
    remedy = "make it again with `moleflow-sweep report FOLDER`"
    if not opens or not closes:
        raise InvalidInput(f"{name}: has no lock at its end, so it cannot be verified; give a report.md, or {remedy}")
    try:
        content: Any = json.loads(written)
    except ValueError as error:
        raise InvalidInput(f"{name}: its lock is damaged ({error}); {remedy}") from None
    if isinstance(content, dict):
        # Older locks have none of them.
        content = {"made_with": {}, "is_search": False, "names": {}} | content
    wrong = [key for key, kinds in _KEYS.items() if not isinstance(content, dict) or not _fits(content, key, kinds)]
    if wrong or content.keys() != _KEYS.keys():
        raise InvalidInput(
            f"{name}: its lock is damaged (key {(wrong or sorted(content.keys() - _KEYS))[0]}); {remedy}"
        )
    selection = None if content["selection"] is None else tuple(map(str, content["selection"]))
    recipe = Recipe(**{of.name: content[of.name] for of in fields(Recipe)} | {"selection": selection})
    lock = Lock(recipe, content["trials"], content["report_code"], content["made_with"])
    return WrittenReport(body, lock, content["rows"], content["text"])


def _fits(content: Mapping[str, object], key: str, kinds: tuple[type, ...]) -> bool:
    # These map to strings.
    value = content.get(key)
    items = value.values() if key in ("trials", "made_with", "names") and isinstance(value, dict) else ()
    return key in content and isinstance(value, kinds) and all(isinstance(item, str) for item in items)


# The form and the digests of a lock do not depend on modules outside of `REPORT_CODE`.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _digest(value: object) -> str:
    return _sha256(_canonical(value).encode())


def text_digest(body: str) -> str:
    """Return the digest of a report's text, by which its lock and its page name it."""
    return _sha256(body.encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
