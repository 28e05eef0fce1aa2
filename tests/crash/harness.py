"""Crash points: every file operation of a command is harmed in turn, and the command run again.

    python tests/crash/harness.py --out FILE            all harms; run again, it goes on
    python tests/crash/harness.py --sample 500          some of them, the same for the same --seed

A process that has imported everything forks one child per run, so that a run takes a fraction of a
second. `shim.c` harms one file operation of the child. A second, unharmed child then runs the same
command to its end, and a third one reads what is stored. A harm counts if the operation was reached
and the second run ended.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import functools
import gc
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = "results/small"
RUN = ("sweep.yaml", "--backend", "inline", "--quiet")
LIMIT_S = 120.0  # An empty claim, whose content a power cut took, counts for a minute.
SYNC_LOST = "kill, unsynced content lost"
MODES = {
    "kill before": (1, 0),
    "kill after": (2, 0),
    SYNC_LOST: (3, 0),
    "EIO": (4, errno.EIO),
    "ESTALE": (4, errno.ESTALE),
    "EDQUOT": (4, errno.EDQUOT),
    "ENOSPC": (4, errno.ENOSPC),
    "ENOSPC from here on": (5, errno.ENOSPC),
    "lost reply": (6, 0),
    "half a write": (7, 0),
}
"""The harms: the mode of the shim, and the error."""
LOST = {"rename", "remove", "link", "make folder", "create"}
"""Operations that fail when a request is repeated whose reply was lost."""
ADDS = {"open to write", "create", "write", "sync", "close", "rename", "link", "symlink", "make folder"}


@dataclass(frozen=True)
class Scenario:
    """A command in a folder.

    Attributes:
        name: its name.
        prepare: makes the folder before the command.
        words: the command line.
        trials: the number of trials that must be finished.
        beside: whether a second driver runs the same command meanwhile.
        chosen: whether a search chooses the trials. It may put another configuration in the place
            of one that failed, so they are only counted.

    """

    name: str
    prepare: Callable[[Path], None]
    words: tuple[str, ...] = RUN
    trials: int = 2
    beside: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Harm:
    """One harm: the number of the operation in its command, from 1, and what happens to it."""

    scenario: str
    number: int
    operation: str
    path: str
    mode: str

    @property
    def key(self) -> str:
        """Its name in a file of verdicts."""
        return f"{self.scenario}, {self.number}, {self.mode}"


@dataclass(frozen=True)
class Verdict:
    """The outcome of a harm; `harmed` is the operation that it met, and its path."""

    reached: bool
    first_exit: int | None
    exit_code: int | None
    lost: int
    doubled: int
    changed: int
    traceback: bool
    harmed: str


# ---- The folders ---------------------------------------------------------------------------------


@functools.cache
def fixtures() -> Any:
    """The module of the tests' fixtures, which draws images and writes small sweeps."""
    spec = importlib.util.spec_from_file_location("fixtures_of_tests", ROOT / "tests" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def furnish(place: Path, **changes: Any) -> None:
    """Write a sweep of one variant with two seeds into a folder."""
    images = place.parent / "images"
    if not images.exists():
        fixtures().draw_class(images / "bolt", 32, 0)
        fixtures().draw_class(images / "cloth", 32, 1)
        for path in images.rglob("*.png"):
            os.utime(path, (1e9, 1e9))
    place.mkdir(exist_ok=True)
    fixtures()._furnish(place, images, **{"grid": None, "report": None, "seeds": 2, **changes})


def cold(place: Path) -> None:
    """Nothing is stored: features, stages, checkpoints and results are made."""
    furnish(place)


def warm(place: Path) -> None:
    """Features are stored."""
    furnish(place)
    assert done(lambda: command(place, "prefetch", "sweep.yaml")) == 0


def begun(place: Path) -> None:
    """One trial of two has finished."""
    furnish(place, seeds=1)
    assert done(lambda: command(place, *RUN)) == 0
    furnish(place)


def crashed(place: Path) -> None:
    """A driver died in the middle: an attempt without an end, a part without a receipt."""
    warm(place)
    journal = place.parent / "journal"
    child(lambda: command(place, *RUN), (0, 0, 0), place, journal).end()
    shutil.rmtree(place)
    warm(place)
    operations = journal.read_text().splitlines()
    last = next(n for n, line in enumerate(operations, 1) if line.startswith("rename") and "parts/curves/2" in line)
    assert child(lambda: command(place, *RUN), (2, last, 0), place).end()[0] == -signal.SIGKILL


def finished(place: Path) -> None:
    """All trials have finished."""
    furnish(place)
    assert done(lambda: command(place, *RUN)) == 0


def search(place: Path) -> None:
    """A search of three trials whose study is a journal; the base is trained beside them."""
    space = {"focal_gamma": {"uniform": [0.0, 2.0]}}
    furnish(place, seeds=1, search={"sampler": "random", "trials": 3, "seed": 0, "space": space})


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("fresh", warm),
        Scenario("training with features, stages and checkpoints", cold),
        Scenario("resume", begun),
        Scenario("recovery after a crash", crashed),
        Scenario("two drivers", warm, beside=True),
        Scenario("prefetch", cold, ("prefetch", "sweep.yaml"), trials=0),
        Scenario("search with its journal", search, trials=4, chosen=True),
        Scenario("report", finished, ("report", RESULTS)),
    )
}


# ---- Runs ----------------------------------------------------------------------------------------


def command(place: Path, *words: str) -> int:
    """Run a command line in this process."""
    from orchestrator.cli import entry

    os.chdir(place)
    os.environ["MOLEFLOW_CACHE"] = str(place / "cache")
    sys.argv = ["moleflow-sweep", *words]
    try:
        entry.main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def child(
    work: Callable[[], int],
    arm: tuple[int, int, int] | None = None,
    root: Path | None = None,
    journal: Path | None = None,
    output: Path | None = None,
) -> Run:
    """Start `work` in a forked child.

    Args:
        work: returns the exit code.
        arm: mode, number and error for the shim.
        root: the folder whose file operations are harmed.
        journal: a file for a line per operation.
        output: a file for what the child prints.
    """
    reached, told = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told)
        return Run(pid, reached)
    code = 70
    try:
        os.close(reached)
        os.setsid()
        handle = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        shim = ctypes.CDLL(None) if arm is not None else None
        if arm is not None and shim is not None:
            log = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) if journal else -1
            shim.harm_arm(arm[0], ctypes.c_long(arm[1]), arm[2], os.fsencode(root or "/"), log)
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        if shim is not None:
            os.write(told, b"1" if shim.harm_fired() else b"0")
            shim.harm_disarm()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


@dataclass
class Run:
    """A forked child."""

    pid: int
    pipe: int

    def end(self) -> tuple[int | None, bool]:
        """Its exit code, minus a signal, or None after LIMIT_S; and whether it reached the harm."""
        deadline, pause, code = time.monotonic() + LIMIT_S, 0.002, None
        while time.monotonic() < deadline:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(pause)
            pause = min(0.02, pause * 1.5)
        else:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        with open(self.pipe, "rb") as pipe:
            told = pipe.read()
        return code, told == b"1" or code == -signal.SIGKILL


def done(work: Callable[[], int]) -> int | None:
    """The exit code of `work` in a child."""
    return child(work).end()[0]


# ---- What is stored ------------------------------------------------------------------------------


def stored(place: Path) -> dict[str, Any]:
    """The rows that are stored, by a reader that knows nothing of the project's own."""
    import pyarrow.parquet as pq

    rows: Counter[str] = Counter()
    digests: dict[str, str] = {}
    for path in sorted((place / RESULTS / "parts" / "attempts").glob("*.parquet")):
        for row in pq.read_table(path, use_threads=False).to_pylist():
            rows[f"{row['trial_id']}-{row['attempt']}"] += 1
            if row["status"] == "finished":
                digests.setdefault(row["trial_id"], f"{row['scores_digest']} {row['state_digest']}")
                if digests[row["trial_id"]] != f"{row['scores_digest']} {row['state_digest']}":
                    digests[row["trial_id"]] = "two finished attempts with different digits"
    report = place / RESULTS / "report.md"
    return {
        "doubled": sum(count - 1 for count in rows.values()),
        "digests": digests,
        "report": hashlib.sha256(report.read_bytes()).hexdigest() if report.exists() else None,
    }


def look(place: Path) -> dict[str, Any]:
    """`stored`, in a child, since Parquet readers start threads."""
    assert done(lambda: tell(place)) == 0
    return told(place)


def tell(place: Path) -> int:
    """Write what is stored beside a folder."""
    (place.parent / "stored.json").write_text(json.dumps(stored(place)))
    return 0


def told(place: Path) -> dict[str, Any]:
    """The answer of a child about the folder."""
    content: dict[str, Any] = json.loads((place.parent / "stored.json").read_text())
    return content


# ---- Harms ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A scenario that is ready to be harmed.

    Attributes:
        scenario: the scenario.
        template: a folder as it is before the command.
        harms: every harm.
        expected: what an unharmed run stores.

    """

    scenario: Scenario
    template: Path
    harms: tuple[Harm, ...]
    expected: dict[str, Any]


def prepare(scenario: Scenario, work: Path) -> Prepared:
    """Make the folder of a scenario, and run its command once to number its file operations."""
    place, template, journal = work / "place", work / "template", work / "journal"
    work.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    scenario.prepare(place)
    shutil.copytree(place, template, symlinks=True)
    output = work / "output"
    code, _ = child(lambda: command(place, *scenario.words), (0, 0, 0), place, journal, output).end()
    assert code == 0, f"{scenario.name}: exit code {code}\n{output.read_text()}"
    expected = look(place)
    assert len(expected["digests"]) == scenario.trials, (scenario.name, expected)
    return Prepared(scenario, template, tuple(harms_of(scenario.name, journal.read_text().splitlines())), expected)


def harms_of(scenario: str, operations: Iterable[str]) -> Iterable[Harm]:
    """Every harm that makes a difference, by operation."""
    for number, line in enumerate(operations, 1):
        operation, path = line.split("\t")
        for mode in MODES:
            if (
                (mode.startswith(("kill", "half")) and operation == "open to read")
                or (mode in ("EDQUOT", "ENOSPC", "ENOSPC from here on") and operation not in ADDS)
                or (mode == "lost reply" and operation not in LOST)
                or (mode == "half a write" and operation != "write")
            ):
                continue
            yield Harm(scenario, number, operation, path, mode)


def verdict(prepared: Prepared, harm: Harm, work: Path) -> tuple[Verdict, str]:
    """Harm one operation, run the command again, and compare; with what was printed."""
    scenario, place, output = prepared.scenario, work / "place", work / "output"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(prepared.template, place, symlinks=True)
    output.write_text("")
    mode, error = MODES[harm.mode]

    def run() -> int:
        return command(place, *scenario.words)

    other = child(run, output=output) if scenario.beside else None
    first, reached = child(run, (mode, harm.number, error), place, work / "harmed", output).end()
    if other is not None:
        other.end()

    def run_and_tell() -> int:
        code = run()
        tell(place)
        return code

    again, _ = child(run_and_tell, output=output).end()
    now, expected = told(place) if again is not None else look(place), prepared.expected
    lost = len(expected["digests"].keys() - now["digests"].keys())
    if scenario.chosen:
        lost = max(0, scenario.trials - len(now["digests"]))
    changed = sum(now["digests"].get(trial, digest) != digest for trial, digest in expected["digests"].items())
    if scenario.name == "report":
        changed += now["report"] != expected["report"]
    text = output.read_text(errors="replace")
    # The numbers of operations differ a little from run to run, with heartbeats and random names.
    harmed = (work / "harmed").read_text().partition("\n")[0]
    return Verdict(reached, first, again, lost, now["doubled"], changed, "Traceback" in text, harmed), text


def is_well(seen: Verdict) -> bool:
    """True if the second run ended well and nothing was lost, doubled or changed."""
    return seen.exit_code == 0 and not (seen.lost or seen.doubled or seen.changed or seen.traceback)


def import_all() -> None:
    """Import what a run imports, so that no forked child has to."""
    with tempfile.TemporaryDirectory(dir=place_for_work()) as folder:
        place, answer = Path(folder) / "place", Path(folder) / "modules"
        furnish(place)

        def run() -> int:
            code = command(place, *RUN)
            answer.write_text("\n".join(sys.modules))
            return code

        assert done(run) == 0
        for name in answer.read_text().splitlines():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    # What every run would work out again or wait for: digests of the code, the versions' settings,
    # and a second between two parts.
    from moleflow.code_digest import code_digest
    from moleflow.settings.knobs import version_settings
    from orchestrator.reports.lock import report_code
    from orchestrator.results import writer

    code_digest()
    report_code()
    version_settings()
    writer.PART_INTERVAL_S = 0.0
    gc.collect()
    gc.freeze()  # A collection in a child would copy every page of this process.


def place_for_work() -> str:
    """A folder in memory if there is one: thousands of folders are written."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()


def run_lanes(lanes: int, names: Sequence[str], sample: int, seed: int, out: Path) -> int:
    """Harm operations in `lanes` forked processes, and append a line for each harm to `out`.

    Returns:
        0 if every process came to its end.
    """
    import_all()
    known = {line["key"] for line in read_lines(out)}
    with tempfile.TemporaryDirectory(dir=place_for_work()) as folder:
        ready = [prepare(SCENARIOS[name], Path(folder) / str(n)) for n, name in enumerate(names)]
        chosen = drawn(ready, sample, seed) if sample else [(one, harm) for one in ready for harm in one.harms]
        open_harms = [(one, harm) for one, harm in chosen if harm.key not in known]
        gc.freeze()
        started = []
        for lane in range(lanes):
            work = Path(folder) / f"lane-{lane}"
            if (process := os.fork()) == 0:
                code = 1
                try:
                    work.mkdir()
                    run_lane(open_harms[lane::lanes], work, out)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            started.append(process)
        return max(abs(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])) for process in started)


def drawn(ready: Sequence[Prepared], sample: int, seed: int) -> list[tuple[Prepared, Harm]]:
    """A sample with a few harms of every scenario; the rest are of those that run for a second."""
    draws = random.Random(seed)
    few = sample // (3 * len(ready))
    chosen, others = [], []
    for one in ready:
        harms = draws.sample(one.harms, len(one.harms))
        chosen += [(one, harm) for harm in harms[:few]]
        if not (one.scenario.chosen or one.scenario.beside):
            others += [(one, harm) for harm in harms[few:]]
    return chosen + draws.sample(others, min(sample - len(chosen), len(others)))


def run_lane(harms: Iterable[tuple[Prepared, Harm]], work: Path, out: Path) -> None:
    """Harm one operation after the other, in the folder `work`."""
    for one, harm in harms:
        began = time.monotonic()
        seen, text = verdict(one, harm, work)
        line = {
            "key": harm.key,
            **asdict(harm),
            **asdict(seen),
            "well": is_well(seen),
            "seconds": round(time.monotonic() - began, 2),
        }
        if not is_well(seen):
            line["output"] = text[-3000:]
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of verdicts; the last may be cut off."""
    lines = []
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def ends_a_run(line: dict[str, Any]) -> bool:
    """True if one passing error, or a lost reply, to a file of results or cache ended a run."""
    passing = line["mode"] in ("EIO", "ESTALE", "EDQUOT", "lost reply")
    path = line["harmed"].partition("\t")[2]
    # Optuna writes its journal itself. An error ends the run there, and the next run goes on.
    of_ours = path.startswith(("/results", "/cache")) and not path.endswith("study.journal")
    return passing and line["first_exit"] != 0 and of_ours


def build_shim(folder: Path) -> Path:
    """Compile `shim.c`."""
    library = folder / "shim.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("crash points need a C compiler: apt-get install gcc libc6-dev")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The counts of all verdicts, as they are committed."""
    counted = [line for line in lines if line["reached"] and line["exit_code"] is not None]
    return {
        "harms": len(counted),
        "not_reached": sum(not line["reached"] for line in lines),
        "not_ended": sum(line["exit_code"] is None for line in lines),
        "lost": sum(line["lost"] for line in counted),
        "doubled": sum(line["doubled"] for line in counted),
        "digits_changed": sum(line["changed"] for line in counted),
        "second_run_failed": sum(line["exit_code"] != 0 for line in counted),
        "tracebacks": sum(line["traceback"] for line in counted),
        "ended_by_a_passing_error": sum(ends_a_run(line) for line in counted),
        "by_scenario": dict(Counter(line["scenario"] for line in counted)),
        "by_mode": dict(Counter(line["mode"] for line in counted)),
    }


def main() -> None:
    """Run lanes side by side, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a file of verdicts, one JSON line each; appended to")
    parser.add_argument("--sample", type=int, default=0, help="the number of harms; 0 = all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only these; repeatable")
    parser.add_argument("--lanes", type=int, default=2, help="processes side by side")
    parser.add_argument("--harmed", action="store_true", help=argparse.SUPPRESS)  # the shim is loaded
    given = parser.parse_args()
    names = given.scenario or list(SCENARIOS)
    if given.harmed:
        sys.exit(run_lanes(given.lanes, names, given.sample, given.seed, given.out.absolute()))
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "LD_PRELOAD": str(build_shim(Path(folder))),
            "MOLEFLOW_FILE_RETRY_S": "0.1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        ended = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--harmed"], env=environment)
    print(json.dumps(summary(read_lines(given.out)), indent=1))
    sys.exit(abs(ended.returncode))


if __name__ == "__main__":
    main()
