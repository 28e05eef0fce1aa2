"""Job states from the output of squeue and sacct; small programs stand for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator.backends.slurm import queue
from orchestrator.backends.slurm.queue import (
    Queue,
    QueueState,
    SlurmUnavailable,
    find_job,
    has_gpus,
    largest_array,
    memory_per_gpu,
)
from orchestrator.backends.slurm.submissions import ArrayTask


@pytest.fixture
def tasks(submitted: Callable[..., list[ArrayTask]]) -> list[ArrayTask]:
    """The three array tasks 7_0, 7_1 and 7_2 and the single job 9."""
    return submitted("7", ["a" * 12], ["b" * 12], ["c" * 12]) + submitted("9", ["d" * 12])


def lines(tasks: list[ArrayTask], **states: str) -> str:
    """A script that prints what squeue does; a keyword is `i` and the id of an array task."""
    names = {task.id: task.submission.name for task in tasks}
    rows = []
    for word, state in states.items():
        job, _, index = word[1:].partition("_")
        name, reason = names[word[1:]], "Priority" if state == "PENDING" else "None"
        rows.append(f"{job}|{index or 'N/A'}|{state}|{name}|{reason}")
    return "/bin/cat <<'E'\n" + "\n".join(rows) + "\nE"


def states_of(tasks: list[ArrayTask], asked: Queue | None = None) -> Mapping[str, str]:
    return {task_id: state.name for task_id, state in (asked or Queue()).states(tasks).items()}


@pytest.mark.parametrize(
    ("phase", "names"),
    [
        ("queued", "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT"),
        ("running", "RUNNING COMPLETING SIGNALING STAGE_OUT RESIZING SUSPENDED STOPPED"),
        (
            "over",
            "COMPLETED FAILED CANCELLED TIMEOUT PREEMPTED NODE_FAIL BOOT_FAIL DEADLINE REVOKED OUT_OF_MEMORY UNKNOWN",
        ),
    ],
)
def test_each_state_of_slurm_is_queued_running_or_over(phase: str, names: str) -> None:
    assert {QueueState(name).phase for name in names.split()} == {phase}


def test_squeue_alone_tells_the_states_of_jobs_that_it_knows(
    programs: Callable[..., Path], tasks: list[ArrayTask]
) -> None:
    listed = lines(tasks, i7_0="RUNNING", i7_1="PENDING", i7_2="COMPLETED", i9="TIMEOUT")
    folder = programs(squeue=listed, sacct="exit 1")
    states = Queue().states(tasks)
    assert {task_id: state.name for task_id, state in states.items()} == {
        "7_0": "RUNNING",
        "7_1": "PENDING",
        "7_2": "COMPLETED",
        "9": "TIMEOUT",
    }
    assert (states["7_0"].reason, states["7_1"].reason) == ("", "Priority")
    assert not (folder / "sacct.log").exists()
    assert "--array --states=all" in (folder / "squeue.log").read_text()


def test_accounting_tells_of_jobs_that_squeue_has_forgotten(
    programs: Callable[..., Path], tasks: list[ArrayTask]
) -> None:
    name, other = tasks[0].submission.name, tasks[3].submission.name
    accounted = (
        f"7_0|COMPLETED|{name}\n7_0.batch|COMPLETED|batch\n"
        f"7_1|CANCELLED by 0|{name}\n"
        f"7_[2]|PENDING|{name}\n"
        f"9|NODE_FAIL+|{other}\n"
    )
    folder = programs(squeue="", sacct=f"/bin/cat <<'E'\n{accounted}E")
    assert states_of(tasks) == {"7_0": "COMPLETED", "7_1": "CANCELLED", "7_2": "PENDING", "9": "NODE_FAIL"}
    assert "--jobs=7,9" in (folder / "sacct.log").read_text()


def test_the_step_of_a_failed_job_tells_that_its_memory_was_too_small(
    programs: Callable[..., Path], tasks: list[ArrayTask]
) -> None:
    name = tasks[0].submission.name
    accounted = (
        f"7_0|FAILED|{name}\n7_0.batch|OUT_OF_MEMORY|batch\n"
        # Accounting is seconds behind and calls a job pending that squeue knows to have failed.
        f"7_1|PENDING|{name}\n"
    )
    programs(
        squeue=lines(tasks, i7_0="FAILED", i7_1="FAILED", i7_2="RUNNING", i9="COMPLETED"),
        sacct=f"/bin/cat <<'E'\n{accounted}E",
    )
    assert states_of(tasks) == {"7_0": "OUT_OF_MEMORY", "7_1": "FAILED", "7_2": "RUNNING", "9": "COMPLETED"}


def test_a_job_of_another_name_is_not_ours(programs: Callable[..., Path], tasks: list[ArrayTask]) -> None:
    programs(squeue="echo '7|0|RUNNING|somebody-else|None'", sacct="echo '7_1|COMPLETED|allocation'")
    assert states_of(tasks) == {"7_0": "UNKNOWN", "7_1": "COMPLETED", "7_2": "UNKNOWN", "9": "UNKNOWN"}


def test_without_accounting_forgotten_jobs_are_unknown_and_sacct_is_asked_once(
    programs: Callable[..., Path], tasks: list[ArrayTask]
) -> None:
    folder = programs(squeue="", sacct="echo 'Slurm accounting storage is disabled' >&2; exit 1")
    asked = Queue()
    for _ in range(2):
        assert set(states_of(tasks, asked).values()) == {"UNKNOWN"}
    assert (folder / "sacct.log").read_text().count("\n") == 1
    # With `accounting: true` its failure is an error; with false, sacct is not asked.
    with pytest.raises(SlurmUnavailable, match="sacct: Slurm accounting storage is disabled"):
        states_of(tasks, Queue(accounting=True))
    states_of(tasks, Queue(accounting=False))
    assert (folder / "sacct.log").read_text().count("\n") == 2


def test_an_error_of_accounting_is_no_state(programs: Callable[..., Path], tasks: list[ArrayTask]) -> None:
    programs(squeue="", sacct="echo 'Connection refused' >&2; exit 1")
    with pytest.raises(SlurmUnavailable, match="sacct: Connection refused"):
        states_of(tasks)


def test_a_controller_that_does_not_answer_is_no_state(
    programs: Callable[..., Path], tasks: list[ArrayTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs()
    with pytest.raises(SlurmUnavailable, match="squeue is not installed here: this is no SLURM login node"):
        states_of(tasks)
    programs(squeue="exit 3")
    with pytest.raises(SlurmUnavailable, match="squeue: exit code 3"):
        states_of(tasks)
    programs(squeue="exec /bin/sleep 9")
    monkeypatch.setattr(queue, "ASK_SECONDS", 0.1)
    with pytest.raises(SlurmUnavailable, match=r"squeue: .*timed out after 0\.1 seconds"):
        states_of(tasks)
    assert Queue().states([]) == {}


def test_jobs_are_cancelled_by_name_in_commands_of_five_hundred(
    programs: Callable[..., Path], submitted: Callable[..., list[ArrayTask]]
) -> None:
    many = submitted("8", *([f"{n:012x}"] for n in range(501)))
    folder = programs(scancel="")
    Queue().cancel(many, pending_only=True)
    first, second = (folder / "scancel.log").read_text().splitlines()
    assert first.startswith(f"--quiet --name={many[0].submission.name} --state=PENDING 8_0 8_1 8_10 ")
    assert (len(first.split()) - 3, len(second.split()) - 3) == (500, 1)
    Queue().cancel(many[:1])
    assert (folder / "scancel.log").read_text().splitlines()[2:] == [f"--quiet --name={many[0].submission.name} 8_0"]


def test_a_job_is_found_by_its_name(programs: Callable[..., Path]) -> None:
    folder = programs(squeue="echo 42; echo 42")
    assert find_job("moleflow-small-x") == "42"
    assert "--format=%F --name=moleflow-small-x" in (folder / "squeue.log").read_text()
    programs(squeue="")
    assert find_job("moleflow-small-x") is None


@pytest.mark.parametrize(
    ("config", "most"), [("MaxArraySize            = 1001", 1000), ("MaxArraySize = 1", 1), ("", 1000)]
)
def test_the_largest_array_is_one_less_than_the_limit_of_its_indices(
    config: str, most: int, programs: Callable[..., Path]
) -> None:
    programs(scontrol=f"echo 'MaxJobCount = 7'; echo '{config}'")
    assert largest_array() == most


@pytest.mark.parametrize(
    ("written", "meant"),
    [("7", ["7"]), ("7_3", ["7_3"]), ("7_[2-4,6%3]", ["7_2", "7_3", "7_4", "7_6"]), ("7_[0]", ["7_0"])],
)
def test_ranges_of_an_array_are_expanded(written: str, meant: list[str]) -> None:
    assert queue._expand(written) == meant


@pytest.mark.parametrize(
    ("answer", "partition", "has"),
    [
        ("gpu|gpu:4", "gpu", True),
        ("gpu|lustre:1,gpu:a100:4(S:0-1)", "gpu", True),
        ("gpu|gpu", "gpu", True),
        ("cpu|(null)", "cpu", False),
        ("cpu|gpu_slots:3", "cpu", False),
        ("cpu*|(null)\ngpu|gpu:4", None, False),
        ("cpu|(null)\ngpu*|gpu:4", None, True),
        ("", "nowhere", False),
    ],
)
def test_a_partition_has_gpus_if_a_node_of_it_has(
    programs: Callable[..., Path], answer: str, partition: str | None, has: bool
) -> None:
    folder = programs(sinfo=f"/bin/cat <<'E'\n{answer}\nE" if answer else "")
    assert has_gpus(partition) == has
    assert ("--partition=" in (folder / "sinfo.log").read_text()) == (partition is not None)


@pytest.mark.parametrize(
    ("answer", "partition", "model", "gb"),
    [
        ("gpu|gpu:2|65536", "gpu", None, 32),
        ("gpu|lustre:1,gpu:a100:4(S:0-1)|131072", "gpu", "a100", 32),
        ("gpu|gpu:a100:4(S:0-1),gpu:v100:4(S:0-1)|131072", "gpu", "v100", 16),
        ("gpu|gpu:8|131072\ngpu|gpu:2|131072\ngpu|(null)|1024", "gpu", None, 16),
        ("gpu|gpu:a100:8|131072\ngpu|gpu:h100:2|131072", "gpu", "h100", 64),
        ("gpu|gpu:a100:8|131072", "gpu", "v100", None),
        ("cpu*|(null)|4096\ngpu|gpu:4|65536", None, None, None),
        ("gpu|gpu|65536", "gpu", None, None),
        ("cpu|gpu_slots:3|4096", "cpu", None, None),
        ("", "nowhere", None, None),
    ],
)
def test_the_memory_per_gpu_is_that_of_the_node_with_the_least(
    programs: Callable[..., Path], answer: str, partition: str | None, model: str | None, gb: float | None
) -> None:
    programs(sinfo=f"/bin/cat <<'E'\n{answer}\nE" if answer else "")
    assert memory_per_gpu(partition, model) == gb
