"""A sweep started from a script or a notebook: the command `run` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from moleflow.errors import InvalidInput, MoleflowError
from orchestrator.api.python_words import python_words
from orchestrator.api.results import SweepResults, load_results
from orchestrator.exit_codes import FAILED, INTERRUPTED, INVALID
from orchestrator.sweep.sweep import load_sweep

_ERROR = "error: "
Event = Mapping[str, Any]


@python_words()
def run_sweep(
    path: str | Path,
    *,
    data: str | Path | None = None,
    base: str | None = None,
    sets: Mapping[str, object] | Sequence[str] = (),
    out: str | Path | None = None,
    cache: str | Path | None = None,
    backend: Literal["inline", "local", "slurm", "ray"] = "local",
    workers: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    options: Sequence[str] = (),
    quiet: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> SweepResults:
    """Run the unfinished trials of a sweep, and return its results.

    It is `moleflow-sweep run` in a process of its own, so it resumes as the command does, and
    changes nothing in this process. Progress is printed here while it runs: a picture on a
    terminal, lines in a notebook or a file. Ctrl-C, or a notebook's interrupt, stops the sweep.

    Args:
        path: the sweep file.
        data: the folder of images; None = the sweep file's, else MOLEFLOW_DATA.
        base: base settings by name or file, in place of the sweep file's.
        sets: {knob: value} for every trial, or texts such as `epochs=5`.
        out: the results folder; None = results/NAME.
        cache: the cache folder; None = MOLEFLOW_CACHE, else the user's.
        backend: inline | local | slurm | ray.
        workers: trials at the same time.
        device: auto | cpu | cuda.
        options: further words of the command, such as `["--profile", "lab.yaml"]`.
        quiet: print nothing.
        on_event: called with each event as a dictionary, in place of printed progress;
            `moleflow-sweep help run` lists its keys.

    Returns:
        The results. Trials that failed are in `unfinished`.

    Raises:
        InvalidInput: a mistake in the sweep file or the options; nothing was run.
        MoleflowError: the run ended by another error.
        KeyboardInterrupt: the run was interrupted; the same call continues it.
    """
    texts = [f"{knob}={json.dumps(value)}" for knob, value in sets.items()] if isinstance(sets, Mapping) else [*sets]
    folders = {name: _folder(given) for name, given in (("--data", data), ("--out", out), ("--cache", cache))}
    given = folders | {"--base": base, "--workers": None if workers is None else str(workers)}
    words = ["run", str(_folder(path)), "--backend", backend, "--device", device]
    words += [word for name, value in given.items() if value is not None for word in (name, value)]
    words += [word for text in texts for word in ("--set", text)]
    words += [*options, *(["--log-json"] if on_event is not None else ["--quiet"] if quiet else [])]
    code, error = _run(words, quiet, on_event)
    if code == INVALID:
        raise InvalidInput(error)
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    root = None if data is None else Path(data).expanduser()
    place = folders["--out"] or str(Path("results") / _name(Path(path).expanduser(), texts, base, root))
    if code not in (0, FAILED) or not Path(place).is_dir():
        raise MoleflowError(error)
    return load_results(place)


def _folder(given: str | Path | None) -> str | None:
    return None if given is None else str(Path(given).expanduser())


def _name(path: Path, sets: Sequence[str], base: str | None, data: Path | None) -> str:
    """Return the name of the sweep's results folder."""
    return load_sweep(path, sets=sets, base=base, data_root=data, environment=os.environ).name


def _run(words: Sequence[str], quiet: bool, on_event: Callable[[Event], None] | None) -> tuple[int, str]:
    """Run the command, and pass on what it prints.

    Returns:
        Its exit code, and the error that it printed last, in one line.
    """
    shares_terminal = on_event is None and not quiet and sys.stdout.isatty()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator.cli", *words],
            stdout=None if shares_terminal else subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            # Ctrl-C reaches all processes of a terminal; elsewhere it is passed on below.
            start_new_session=not shares_terminal,
        )
        lines = process.stdout or ()
        show = _ignore if quiet else _print
        try:
            for line in lines:
                if on_event is None:
                    show(line)
                else:
                    on_event(json.loads(line))
            process.wait()
        except BaseException:
            if not shares_terminal:
                process.send_signal(signal.SIGINT)
            for line in lines:  # It waits for a reader, so it could not end without one.
                (show if on_event is None else _ignore)(line)
            process.wait()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()
        errors.seek(0)
        said = [line.rstrip().removeprefix(_ERROR) for line in errors if line.startswith(_ERROR)]
    return process.returncode, said[-1] if said else f"moleflow-sweep ended with exit code {process.returncode}"


def _print(line: str) -> None:
    print(line, end="", flush=True)


def _ignore(_line: str) -> None:
    """Show nothing of a line."""
