"""Results, a cache and queued jobs that commit 72d732b left behind, taken up by today's commands.

make_fixture.py made them. Two sweeps are in one folder: `small`, four trials that are finished, and
`queued`, two of the same trials finished and two waiting in SLURM's queue.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

ARCHIVE = Path(__file__).with_name("made_by_72d732b.tar.xz")
SMALL, QUEUED = "results/small", "results/queued"
INLINE, SLURM = ("--backend", "inline", "--quiet"), ("--backend", "slurm", "--detach")
SAME = 1e-3  # Kernels for other instructions give other last bits.

Row = Mapping[str, Any]


def unpack(folder: Path) -> Path:
    """The folder as the old code left it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="tar")
    return folder


def table(text: str) -> list[dict[str, str]]:
    """The rows of a CSV."""
    return list(csv.DictReader(io.StringIO(text)))


@dataclass(frozen=True)
class Array:
    """Jobs in SLURM's queue: their common name, and each one's number by the id of its trial."""

    name: str
    jobs: dict[str, str]


@dataclass(frozen=True)
class Old:
    """A results folder as the old code left it, read without any of the project's code."""

    folder: Path

    def rows(self, name: str) -> list[dict[str, Any]]:
        """A stored table, from its Parquet parts."""
        files = sorted((self.folder / "parts" / name).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    @property
    def finished(self) -> set[str]:
        """The ids of finished trials."""
        return {row["trial_id"] for row in self.rows("attempts") if row["status"] == "finished"}

    @property
    def array(self) -> Array:
        """The job array on record."""
        (path,) = (self.folder / "slurm").glob("*.json")
        record = json.loads(path.read_text())
        jobs = {trials[0]: f"{record['job_id']}_{n}" for n, trials in enumerate(record["elements"])}
        return Array(f"moleflow-queued-{record['uid']}", jobs)

    @property
    def report(self) -> str:
        """Its report.csv."""
        return (self.folder / "report.csv").read_text()


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Old]:
    """A results folder of the fixture, in a copy that no command sees."""
    place = unpack(tmp_path_factory.mktemp("old"))
    return lambda name: Old(place / name)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH: no SLURM is there, unless a test puts one in."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def place(tmp_path: Path, programs: Path) -> Path:
    """The old folder unpacked; commands are given from here, on a machine without SLURM."""
    return unpack(tmp_path / "place")


@pytest.fixture
def ask(command: Callable[..., Any]) -> Callable[..., str]:
    """The output of a command that ends with exit code 0."""

    def ask(*words: str) -> str:
        ended = command(*words)
        assert (ended.code, "Traceback" in ended.err) == (0, False), ended
        return str(ended.out)

    return ask


@pytest.fixture
def attempts(ask: Callable[..., str]) -> Callable[..., list[tuple[str, int, str]]]:
    """Trial, number and end of every attempt that is stored."""

    def attempts(folder: str) -> list[tuple[str, int, str]]:
        rows = table(ask("export", folder, "--what", "attempts"))
        return sorted((row["trial_id"], int(row["attempt"]), row["status"]) for row in rows)

    return attempts


def states(plan: str) -> dict[str, str]:
    """The state of each trial in the JSON of `plan` or `status`, by its id."""
    return {trial["trial_id"]: trial["state"] for trial in json.loads(plan)["trials"]}


def auroc(report: str) -> dict[tuple[str, str, str], tuple[str, str, str]]:
    """Every AUROC in a report.csv, as it is written: mean, spread and number of seeds."""
    rows = [row for row in table(report) if row["metric"].endswith("auroc")]
    return {(row["variant"], row["class"], row["metric"]): (row["mean"], row["sd"], row["n"]) for row in rows}


def test_status_finds_what_the_old_code_finished(ask, old) -> None:
    said = ask("status", SMALL, "--json")
    assert json.loads(said)["counts"]["finished"] == len(old(SMALL).finished) == 4
    assert states(said) == dict.fromkeys(old(SMALL).finished, "finished")


def test_the_log_of_an_old_trial_is_read(ask) -> None:
    assert "cloth" in ask("logs", SMALL, "fab07d9123ce")


def test_a_report_made_today_has_the_old_numbers_and_calls_them_stale(place, ask, old) -> None:
    said = ask("report", SMALL)
    made = (place / SMALL / "report.csv").read_text()
    assert len(auroc(made)) == 36
    assert auroc(made) == auroc(old(SMALL).report)
    assert all("stale" in row["marks"] for row in table(made) if row["metric"].endswith("auroc"))
    assert "stale" in said
    assert "stale" in (place / SMALL / "report.md").read_text()


def test_the_page_shows_old_pictures_and_curves(place, ask) -> None:
    ask("report", SMALL, "--html")
    assert "data:image/" in (place / SMALL / "report.html").read_text()


def test_export_gives_out_the_old_tables_and_rows(ask, old) -> None:
    assert auroc(ask("export", SMALL)) == auroc(old(SMALL).report)
    for name in ("metrics", "scores", "curves", "attempts"):
        stored, given = old(SMALL).rows(name), table(ask("export", SMALL, "--what", name))
        assert len(given) == len(stored) > 0
    values = by_place(old(SMALL).rows("metrics"))
    given_values = by_place(table(ask("export", SMALL, "--what", "metrics")))
    assert given_values == values


def by_place(rows: Iterable[Row], attempt: int = 1) -> dict[tuple[str, int, int], dict[str, float]]:
    """The measures of an attempt at each trial, by trial, task learned last and task tested."""
    apart = {"sweep", "trial_id", "attempt", "version", "factors", "dataset", "status", "split"}
    apart |= {"task_name", "after_task_name", "state_digest", "scores_digest", "seconds_spent", "seconds_reused"}
    return {
        (row["trial_id"], int(row["after_task"]), int(row["task"])): {
            name: float(value) for name, value in row.items() if name not in apart and value not in (None, "")
        }
        for row in rows
        if int(row["attempt"]) == attempt
    }


def test_compare_puts_two_old_sweeps_side_by_side(ask, old) -> None:
    side_by_side = auroc(ask("compare", SMALL, QUEUED, "--format", "csv"))
    for folder, sweep in ((SMALL, "small"), (QUEUED, "queued")):
        for (variant, *place), numbers in auroc(old(folder).report).items():
            assert side_by_side[(f"{variant} ({sweep})", *place)] == numbers


def test_plan_gives_trials_the_ids_they_are_stored_under_and_calls_them_stale(ask, old) -> None:
    said = ask("plan", "sweep.yaml", "--json")
    assert states(said) == dict.fromkeys(old(SMALL).finished, "stale")
    assert json.loads(said)["counts"] == {"done": 0, "stale": 4, "to run": 0}


def test_verify_finds_the_old_report_equal_or_says_why_not(command) -> None:
    ended = command("verify", f"{SMALL}/report.md")
    assert "Traceback" not in ended.err
    told = "equal" in ended.out if ended.code == 0 else "code" in ended.out + ended.err
    assert told, ended
    assert ended.code in (0, 1)


def test_verify_finds_a_report_equal_that_was_made_today_of_old_rows(ask) -> None:
    ask("report", SMALL)
    assert "equal" in ask("verify", f"{SMALL}/report.md")


def test_the_same_command_again_runs_nothing_twice(ask, attempts, old) -> None:
    ask("sweep.yaml", *INLINE)
    assert attempts(SMALL) == [(trial, 1, "finished") for trial in sorted(old(SMALL).finished)]


@pytest.mark.process
def test_stale_trials_run_anew_to_the_same_numbers(place, ask, attempts, old) -> None:
    ask("sweep.yaml", *INLINE, "--rerun-stale")
    assert attempts(SMALL) == [(trial, 2, "finished") for trial in sorted(old(SMALL).finished)]
    before = by_place(old(SMALL).rows("metrics"))
    anew = by_place(table(ask("export", SMALL, "--what", "metrics")), attempt=2)
    assert anew.keys() == before.keys()
    for key, measures in before.items():
        assert anew[key] == pytest.approx(measures, abs=SAME)
    assert set(states(ask("plan", "sweep.yaml", "--json")).values()) == {"done"}
    assert "stale" not in (place / SMALL / "report.csv").read_text()


def test_one_more_seed_runs_new_trials_alone_and_leaves_the_old_ones_stale(place, ask, attempts, old) -> None:
    sweep = place / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace("seeds: 2", "seeds: 3"))
    stale = dict.fromkeys(old(SMALL).finished, "stale")
    planned = states(ask("plan", "sweep.yaml", "--json"))
    new = planned.keys() - stale.keys()
    assert planned == stale | dict.fromkeys(new, "to run")
    assert len(new) == 2
    ask("sweep.yaml", *INLINE)
    assert attempts(SMALL) == sorted((trial, 1, "finished") for trial in planned)
    assert states(ask("plan", "sweep.yaml", "--json")) == stale | dict.fromkeys(new, "done")
    made = table((place / SMALL / "report.csv").read_text())
    assert {row["n"] for row in made if row["metric"] == "image_auroc"} == {"3"}
    assert all("stale" in row["marks"] for row in made if row["metric"] == "image_auroc")
    assert "stale" in (place / SMALL / "report.md").read_text()


def test_the_old_cache_is_listed_kept_small_and_cleared(ask) -> None:
    said = ask("cache")
    assert "32 images" in said
    assert "stages: 8" in said
    assert "evicted" in ask("cache", "--budget", "200KB", "--evict")
    assert "stages: 0" in ask("cache", "--clear", "stages") + ask("cache")


# --- jobs in SLURM's queue


@dataclass(frozen=True)
class Mine:
    """Leaves a mark as soon as it is unpickled."""

    mark: Path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.mark), "w")


@pytest.fixture
def array(old: Callable[[str], Old]) -> Array:
    """The two jobs of the old record."""
    return old(QUEUED).array


@pytest.fixture
def mined(place: Path, tmp_path: Path) -> Iterator[None]:
    """Mines in place of submitit's pickles; in the end none has gone off."""
    mark, pickles = tmp_path / "unpickled", sorted((place / QUEUED).rglob("*.pkl"))
    assert len(pickles) == 2
    for path in pickles:
        path.write_bytes(pickle.dumps(Mine(mark)))
    yield
    assert not mark.exists()


@dataclass(frozen=True)
class FakeSlurm:
    """SLURM's commands as scripts that say what they are told to, and write down each call."""

    folder: Path
    array: Array

    def script(self, name: str, says: str) -> None:
        """Write a command that notes its arguments and says something."""
        path = self.folder / name
        said = f"{says}\n" if says else ""
        path.write_text(f"#!/bin/sh\necho {name} \"$@\" >>{self.folder}/calls\n/bin/cat <<'END'\n{said}END\n")
        path.chmod(0o755)

    def queue(self, word: str) -> None:
        """Let squeue tell the state of the two old jobs."""
        jobs = (job.replace("_", "|") for job in self.array.jobs.values())
        self.script("squeue", "\n".join(f"{job}|{word}|{self.array.name}|None" for job in jobs))

    def calls(self, name: str) -> list[str]:
        """The calls of a command."""
        calls = self.folder / "calls"
        return [line for line in calls.read_text().splitlines() if line.split()[0] == name] if calls.exists() else []


@pytest.fixture
def slurm(programs: Path, array: Array) -> FakeSlurm:
    """A SLURM that knows of no job and takes any, without accounting."""
    made = FakeSlurm(programs, array)
    for name, says in (("squeue", ""), ("scancel", ""), ("srun", ""), ("scontrol", "MaxArraySize = 1001")):
        made.script(name, says)
    made.script("sbatch", "Submitted batch job 5")
    return made


@pytest.fixture
def waiting(slurm: FakeSlurm) -> FakeSlurm:
    """A SLURM in whose queue the old jobs still wait."""
    slurm.queue("PENDING")
    return slurm


def cannot_be_told(said: str, array: Array) -> None:
    """Check a `status --json`: the two jobs on record are unknown, for want of squeue."""
    counts = json.loads(said)["counts"]
    assert (counts["finished"], counts["unknown"]) == (2, 2)
    trials = [trial for trial in json.loads(said)["trials"] if trial["state"] == "unknown"]
    assert {trial["trial_id"]: trial["job"].partition("@")[0] for trial in trials} == array.jobs
    assert all("squeue" in trial["reason"] for trial in trials)


@pytest.mark.usefixtures("mined")
def test_without_slurm_the_state_of_queued_trials_is_unknown_and_the_reason_is_said(ask, old, array) -> None:
    assert len(old(QUEUED).finished) == 2
    cannot_be_told(ask("status", QUEUED, "--json"), array)
    assert "squeue" in ask("status", QUEUED)
    assert "squeue" in ask("logs", QUEUED, next(iter(array.jobs)))


@pytest.mark.usefixtures("mined")
def test_without_slurm_queued_trials_are_planned_reported_and_cancelled(place, ask, old, array) -> None:
    finished = dict.fromkeys(old(QUEUED).finished, "stale")
    assert states(ask("plan", "queued.yaml", "--json")) == finished | dict.fromkeys(array.jobs, "to run")
    ask("report", QUEUED)
    assert auroc((place / QUEUED / "report.csv").read_text()) == auroc(old(QUEUED).report)
    assert "cancelled: 2" in ask("cancel", QUEUED)
    cannot_be_told(ask("status", QUEUED, "--json"), array)


@pytest.mark.usefixtures("mined")
def test_without_slurm_nothing_is_submitted(command) -> None:
    ended = command("queued.yaml", *SLURM)
    assert ended.code == 2
    assert "sbatch" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.usefixtures("mined")
def test_queued_trials_run_on_another_backend(ask, attempts, old, array) -> None:
    ask("queued.yaml", *INLINE)
    assert attempts(QUEUED) == sorted((trial, 1, "finished") for trial in old(QUEUED).finished | set(array.jobs))


@pytest.mark.usefixtures("mined")
def test_jobs_that_still_wait_are_found_kept_and_withdrawn(ask, waiting, array) -> None:
    found = states(ask("status", QUEUED, "--json"))
    assert {trial: found[trial] for trial in array.jobs} == dict.fromkeys(array.jobs, "queued")
    assert "not submitted: 2 trials" in ask("queued.yaml", *SLURM)
    assert waiting.calls("sbatch") == []
    assert "cancelled: 2" in ask("cancel", QUEUED)
    (call,) = waiting.calls("scancel")
    assert all(word in call for word in (array.name, *array.jobs.values()))


@pytest.mark.usefixtures("mined")
@pytest.mark.parametrize("word", [None, "FAILED", "COMPLETED"])
def test_trials_whose_old_jobs_are_over_are_submitted_anew(word, ask, slurm, array) -> None:
    if word is not None:
        slurm.queue(word)
    assert states(ask("status", QUEUED, "--json")).keys() > array.jobs.keys()
    assert "submitted: 2 trials as SLURM job 5" in ask("queued.yaml", *SLURM)
    assert len(slurm.calls("sbatch")) == 1
    assert "2 finished" in ask("status", QUEUED)


@pytest.mark.process
def test_an_old_job_that_starts_today_ends_without_touching_the_results(place, ask, attempts, array) -> None:
    before = attempts(QUEUED)
    (jobs,) = (path.parent for path in (place / QUEUED).rglob("*_0_submitted.pkl"))
    number = next(iter(array.jobs.values())).partition("_")[0]
    numbers = {"SLURM_JOB_ID": number, "SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": "0"}
    ranks = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    sizes = {"SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "n1"}
    environment = dict(os.environ) | numbers | ranks | sizes | {"SUBMITIT_EXECUTOR": "slurm"}
    started = [sys.executable, "-m", "submitit.core._submit", str(jobs)]
    ended = subprocess.run(started, cwd=place, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert attempts(QUEUED) == before
    cannot_be_told(ask("status", QUEUED, "--json"), array)
