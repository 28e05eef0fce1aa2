"""Local worker processes: how many there are, on which GPU, and what remains of one that dies."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from moleflow.settings.config import TrialConfig
from orchestrator.backends import local
from orchestrator.backends.local import LocalBackend
from orchestrator.execution.backend import WorkerConfig, WorkItem
from orchestrator.execution.planned_trials import PlannedTrials
from orchestrator.execution.trial_source import TrialSource
from orchestrator.records.events import Event
from orchestrator.sweep.file_schema import Resources
from orchestrator.sweep.trial import Inputs, Trial


def setup_for(folder: Path, device: str = "auto", threads: int = 1) -> WorkerConfig:
    return WorkerConfig("s", folder, folder, folder, "d", "local", "w", device, threads, False, {})  # type: ignore[arg-type]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str | None]]:
    """The GPU of each worker on a machine with some GPUs, cores and GB of memory."""

    def workers(
        gpus: list[str],
        cores: int = 8,
        memory: float = 64.0,
        workers: int | None = None,
        device: str = "auto",
        threads: int = 1,
        **needs: float,
    ) -> list[str | None]:
        monkeypatch.setattr(local, "visible_gpus", lambda: gpus)
        monkeypatch.setattr(local, "available_cores", lambda: cores)
        monkeypatch.setattr(local, "memory_gb", lambda: memory)
        return LocalBackend(setup_for(tmp_path, device, threads), workers, Resources.model_validate(needs)).worker_gpus

    return workers


def test_each_gpu_gets_as_many_workers_as_trials_share_it(machine: Callable[..., list[str | None]]) -> None:
    assert machine(["0", "1"]) == ["0", "1"]
    assert machine(["0", "1"], trials_per_gpu=2) == ["0", "0", "1", "1"]
    # A number of workers counts; they go round the GPUs.
    assert machine(["0", "1"], workers=3) == ["0", "1", "0"]
    assert machine(["0", "1"], workers=1) == ["0"]


def test_without_a_gpu_cores_and_memory_limit_the_workers(machine: Callable[..., list[str | None]]) -> None:
    assert machine([], cores=8, memory=64.0, cpus=1, mem_gb=4.0) == [None] * 8
    assert machine([], cores=8, memory=11.9, cpus=1, mem_gb=4.0) == [None] * 2
    assert machine([], cores=8, memory=64.0, cpus=3, mem_gb=4.0) == [None] * 2
    assert machine([], cores=8, memory=64.0, cpus=1, mem_gb=4.0, threads=4) == [None] * 2
    assert machine([], cores=1, memory=1.0, cpus=2, mem_gb=4.0) == [None]
    assert machine([], cores=1, memory=1.0, workers=3) == [None] * 3


def test_on_the_cpu_gpus_are_left_alone(machine: Callable[..., list[str | None]]) -> None:
    assert machine(["0", "1"], cores=3, memory=64.0, cpus=1, mem_gb=4.0, device="cpu") == [None] * 3


class Ran:
    """A run of one trial by workers whose `run` method is given; `outcome` is the run's."""

    def __init__(self, events: list[Event], source: TrialSource) -> None:
        self.events, self.outcome = events, source.tally
        self.kinds = [event.kind for event in events]


@pytest.fixture
def run_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run one trial in worker processes whose worker has the given body of `run(self, trial)`."""
    count = 0

    def run(body: str, init: str = "pass", seen: Callable[[Event], None] = lambda _: None) -> Ran:
        nonlocal count
        count += 1
        name = f"worker_of_test_{count}"
        text = f"""
            import os, signal, time
            from orchestrator.records.events import Event

            class Worker:
                def __init__(self, setup, events):
                    self.setup, self.events = setup, events
                    {init}

                def run(self, trial):
                    {body}

                def seconds_until_due(self):
                    return None

                def flush(self):
                    pass
            """
        (tmp_path / f"{name}.py").write_text(dedent(text))
        monkeypatch.syspath_prepend(tmp_path)
        make = __import__(name).Worker
        source = TrialSource(PlannedTrials([Trial("a" * 12, TrialConfig(), {}, Inputs({}, "", ""))]), Resources(), 1)
        events: list[Event] = []

        def take(event: Event) -> None:
            source.events(event)
            events.append(event)
            seen(event)

        LocalBackend(setup_for(tmp_path), 1, stop_seconds=5.0, make=make).run(source, take)
        return Ran(events, source)

    return run


def test_the_messages_of_a_worker_that_died_are_read_to_the_end(run_worker: Callable[..., Ran]) -> None:
    ran = run_worker(
        "[self.events(Event(kind, trial.id)) for kind in ['started', *['epoch'] * 50, 'finished']]; "
        "os.kill(os.getpid(), signal.SIGKILL)",
        # The driver is late: when it looks again, the process is dead and its messages are there.
        seen=lambda event: time.sleep(1.0) if event.kind == "started" else None,
    )
    assert ran.kinds == ["started", *["epoch"] * 50, "finished"]
    assert ran.outcome.finished == ["a" * 12]
    assert not ran.outcome.failed


def test_a_worker_that_dies_fails_its_trial_which_a_new_one_retries(
    run_worker: Callable[..., Ran], tmp_path: Path
) -> None:
    first = f"open({str(tmp_path / 'begun')!r}, 'x')"
    ran = run_worker(
        f"import contextlib\n                    try: {first}\n"
        "                    except FileExistsError: self.events(Event('finished', trial.id)); return\n"
        "                    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert ran.kinds == ["failed", "finished"]
    error = "the worker process died by signal 9; the machine may be out of memory"
    assert (ran.events[0].facts["error"], ran.events[0].facts["error_kind"]) == (error, "WorkerDied")


def test_the_exit_code_of_a_dead_worker_is_named(run_worker: Callable[..., Ran]) -> None:
    ran = run_worker("os._exit(3)")
    assert [event.facts["error"] for event in ran.events] == ["the worker process died with exit code 3"] * 2


def test_if_no_worker_can_start_the_run_ends(run_worker: Callable[..., Ran]) -> None:
    ran = run_worker("pass", init="raise RuntimeError('no CUDA')")
    assert ran.kinds == ["fatal"]
    assert ran.outcome.stopped_by == "no worker can start: no CUDA"


GPU_WORKER = """
    import os, time
    from orchestrator.execution.gpu_errors import GpuBroken
    from orchestrator.records.events import Event

    class Worker:
        def __init__(self, setup, events):
            self.setup, self.events = setup, events

        def run(self, trial):
            gpu = os.environ["CUDA_VISIBLE_DEVICES"]
            self.events(Event("started", trial.id, {"gpu": gpu, "pid": os.getpid()}))
            if gpu == "0":
                self.events(Event("failed", trial.id, {"error": "ECC", "error_kind": "AcceleratorError"}))
                raise GpuBroken("ECC")
            time.sleep(0.5)  # Longer than the end of a process.
            self.events(Event("finished", trial.id))

        def seconds_until_due(self):
            return None

        def flush(self):
            pass
    """


@pytest.mark.parametrize("gpus", [["0", "1"], ["0"]])
def test_a_process_whose_gpu_broke_is_replaced_and_its_trial_runs_on_another(
    gpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Stands for a machine with GPUs: the first one breaks in every trial."""
    name = f"gpu_worker_of_test_{len(gpus)}"
    (tmp_path / f"{name}.py").write_text(dedent(GPU_WORKER))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(local, "visible_gpus", lambda: gpus)
    ids = [letter * 12 for letter in "abcdef"]
    source = TrialSource(
        PlannedTrials([Trial(one, TrialConfig(), {}, Inputs({}, "", "")) for one in ids]), Resources(), retries=2
    )
    started: list[tuple[str, str, int]] = []

    def take(event: Event) -> None:
        source.events(event)
        if event.kind == "started":
            started.append((event.trial_id, event.facts["gpu"], event.facts["pid"]))

    LocalBackend(setup_for(tmp_path), stop_seconds=5.0, make=__import__(name).Worker).run(source, take)
    on_first = [(trial, pid) for trial, gpu, pid in started if gpu == "0"]
    assert len({pid for _, pid in on_first}) == len(on_first)
    if len(gpus) == 2:
        assert sorted(source.tally.finished) == ids
        # No trial meets the broken GPU twice. Twice proven, that GPU gets no more trials.
        assert 2 <= len(on_first) == len({trial for trial, _ in on_first}) < len(ids)
        assert caplog.text.count("GPU 0 broke in trials that others finish") == 1
    else:
        # The only GPU is kept: whether the trials are at fault shows in their errors.
        assert source.tally.failed
        assert not source.tally.finished
        assert "gets no more" not in caplog.text


def test_gpus_that_all_break_now_and_then_are_kept(tmp_path: Path) -> None:
    engine = local._LocalEngine(setup_for(tmp_path), ["0", "1"], 5.0, local.make_worker)
    engine._proven.update({"0": local.PROOFS})
    assert engine.free_slots() == 1
    engine._proven.update({"1": local.PROOFS})
    assert engine.free_slots() == 2
    # An item for which no worker is free waits, also if every GPU broke in its trial.
    item = WorkItem(Trial("a" * 12, TrialConfig(), {}, Inputs({}, "", "")), (), Resources())
    engine._broke["a" * 12] = {"0", "1"}
    engine._gpus = []
    engine.submit(item)
    assert engine.cancel_queued() == [Event("withdrawn", "a" * 12)]
    engine.close()
