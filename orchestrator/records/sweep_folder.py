"""sweep.json: the sweep that owns a results folder, and its latest plan."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moleflow import files
from moleflow.errors import InvalidInput
from moleflow.suggestions import hint_at
from orchestrator.host.printable_text import single_line
from orchestrator.records.attempts import write_json

FILE = "sweep.json"
_TRIAL_ID = re.compile("[0-9a-f]{12}")


@dataclass(frozen=True)
class SweepFolder:
    """The content of sweep.json.

    Attributes:
        name: the sweep.
        title: the sweep with its question.
        baseline: the settings that tables compare with.
        trial_ids: the trials of the latest plan.
        dataset: the name of the data set.
        labels: readable names by trial id.
        command: the words typed after the program's name.
        typed_in: the folder in which the command was typed.
        tabled: the trials of a search that tables compare; None = all.
        names: short names of these by trial id, such as `best #17`.

    """

    name: str
    title: str
    baseline: dict[str, Any]
    trial_ids: tuple[str, ...]
    dataset: str
    labels: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    typed_in: str = "."
    tabled: tuple[str, ...] | None = None
    names: dict[str, str] = field(default_factory=dict)

    @property
    def compared(self) -> tuple[str, ...]:
        """The trials that tables compare."""
        return self.trial_ids if self.tabled is None else self.tabled


def refuse_duplicates(folders: Sequence[Path], command: str) -> None:
    """Refuse a folder that is given twice.

    Raises:
        InvalidInput: one is.

    """
    repeated = [folder for folder, n in Counter(folder.resolve() for folder in folders).items() if n > 1]
    if repeated:
        raise InvalidInput(f"{command}: {repeated[0]} is given twice; give each folder once")


def check_owner(folder: Path, name: str) -> None:
    """Check that `folder` is this sweep's, or empty.

    Raises:
        InvalidInput: it holds another sweep, or files that are no sweep's.

    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: is a file, but results need a folder; give another one with --out")
    if (folder / FILE).exists():
        owner = read_sweep_folder(folder).name
        if owner != name:
            raise InvalidInput(
                f"{folder}: holds the sweep '{owner}', not '{name}'; give another folder with --out, or rename the sweep"
            )
    # A start that was killed leaves hidden files, which do not count.
    elif any(not path.name.startswith(".") for path in folder.iterdir()):
        raise InvalidInput(f"{folder}: is not empty and holds no sweep; give another folder with --out")


def write_sweep_folder(folder: Path, sweep: SweepFolder, spec: dict[str, Any]) -> None:
    """Write sweep.json; `spec` is the sweep as its digest sees it."""
    content = {
        "name": sweep.name,
        "title": sweep.title,
        "baseline": sweep.baseline,
        "dataset": sweep.dataset,
        "trials": list(sweep.trial_ids),
        "labels": sweep.labels,
        "spec": spec,
        "command": list(sweep.command),
        "typed_in": sweep.typed_in,
        **({} if sweep.tabled is None else {"tabled": list(sweep.tabled), "names": sweep.names}),
        "planned_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(folder / FILE, content)


def require_folder(folder: Path) -> Path:
    """The folder, if it exists.

    Raises:
        InvalidInput: no such folder, or a file.

    """
    if folder.is_file():
        raise InvalidInput(
            f"{folder}: is a file; give the folder that a run printed as 'results', such as results/NAME"
        )
    if not folder.exists():
        # Most are in results/, and only their names are remembered.
        places = [*folder.parent.glob("*"), *(one.parent for one in Path("results").glob(f"*/{FILE}"))]
        near = hint_at(str(folder), [str(one) for one in places if one.is_dir()])
        raise InvalidInput(f"{folder}: no such folder{near or '; give a results folder, such as results/NAME'}")
    return folder


def read_sweep_folder(folder: Path) -> SweepFolder:
    """Read sweep.json.

    Raises:
        InvalidInput: the folder holds no sweep, or sweep.json is damaged.

    """
    path = require_folder(folder) / FILE
    try:
        return _checked(json.loads(files.read(path).decode("utf-8")))
    except FileNotFoundError:
        raise InvalidInput(
            f"{folder}: holds no sweep ({FILE} is missing); give the folder that a run printed as 'results'"
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"no '{error.args[0]}'" if isinstance(error, KeyError) else f"no JSON as a sweep writes it: {error}"
        raise InvalidInput(
            f"{path}: is damaged ({reason}); put it back as it was, or run the sweep again into another folder (--out)"
        ) from None


def _checked(content: Any) -> SweepFolder:
    """The content of sweep.json, each value of its type: another may have written it.

    Raises:
        KeyError, TypeError, ValueError: a value is missing, of another type or not allowed.
    """

    def of(key: str, kind: type, value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"'{key}' is {type(value).__name__}, not {kind.__name__}")
        return value

    def texts(key: str, values: Any) -> tuple[str, ...]:
        return tuple(of(key, str, one) for one in of(key, list, values))

    def ids(key: str, values: Any) -> tuple[str, ...]:
        # They become names of files.
        for one in (found := texts(key, values)):
            if not _TRIAL_ID.fullmatch(one):
                raise ValueError(f"'{key}' holds {one!r:.40}, allowed: ids of 12 digits 0-9 a-f")
        return found

    content = of(FILE, dict, content)
    labels, names = (of(key, dict, content.get(key, {})) for key in ("labels", "names"))
    tabled = content.get("tabled")
    return SweepFolder(
        of("name", str, content["name"]),
        of("title", str, content["title"]),
        of("baseline", dict, content["baseline"]),
        ids("trials", content["trials"]),
        of("dataset", str, content["dataset"]),
        {trial_id: single_line(of("labels", str, label)) for trial_id, label in labels.items()},
        texts("command", content.get("command", [])),
        of("typed_in", str, content.get("typed_in", ".")),
        None if tabled is None else ids("tabled", tabled),
        {trial_id: single_line(of("names", str, name)) for trial_id, name in names.items()},
    )
