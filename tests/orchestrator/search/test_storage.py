"""One contract for a journal, SQLite and a real PostgreSQL, and storages that cannot be opened."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from moleflow.errors import InvalidInput
from orchestrator.execution.backend import SourceSignal
from orchestrator.search import storage
from orchestrator.search.drivers import check_study_owner, fail_trials_of_dead_drivers
from orchestrator.search.storage import JOURNAL


def _program(name: str) -> str | None:
    """A program of PostgreSQL; Debian keeps them out of the PATH, one folder a release."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server for these tests, on loopback, not run by root."""
    pytest.importorskip("psycopg", reason="no psycopg: pip install 'psycopg[binary]'")
    initdb, control = _program("initdb"), _program("pg_ctl")
    if not initdb or not control:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    # Folders of pytest are closed to other users.
    place = Path(tempfile.mkdtemp(prefix="postgresql-"))
    as_user: tuple[str, ...] = ()
    if os.getuid() == 0:  # The server refuses to run as root.
        as_user = ("runuser", "-u", "postgres", "--")
        shutil.chown(place, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(*words: str) -> None:
        done = subprocess.run([*as_user, *words], cwd=place, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr + done.stdout

    data = str(place / "data")
    call(initdb, "-D", data, "-U", "search", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
    settings = f"-p {port} -h 127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    call(control, "-D", data, "-l", str(place / "log"), "-o", settings, "-w", "start")
    try:
        yield f"postgresql+psycopg://search:secret@127.0.0.1:{port}/postgres"
    finally:
        call(control, "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(place)


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Each kind of storage."""
    if request.param == "journal":
        return None
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return str(request.getfixturevalue("postgresql"))


@pytest.fixture
def own(driven, url, request):
    """Drivers of a study of this test's own, in that storage."""

    def make(name="one", **search):
        also = {"seeds": 1, "name": "".join(c for c in request.node.name if c.isalnum())}
        return driven(also, {"url": url, "name": name}, **search)

    return make


def test_a_study_keeps_everything_when_opened_again(own):
    one = own(trials=4, constraints={"seconds": 0.5})
    one.finish(one.ask(), 0.25)
    one.fail(one.ask())
    one.ask()
    two = own("two", trials=4, constraints={"seconds": 0.5})
    assert two.states == ["COMPLETE", "FAIL", "RUNNING"]
    assert [t.params for t in two.trials] == [t.params for t in one.trials]
    assert two.trials[0].value == 0.25
    assert two.trials[0].constraints == {"seconds": 0.5}
    assert two.trials[0].user_attrs == one.trials[0].user_attrs
    assert two.study.metric_names == ["image_auroc"]


def test_a_configuration_of_a_dead_driver_is_taken_over(own):
    one, two = own("one", trials=1), own("two", trials=1)
    check_study_owner(one.study, one.folder)
    lost = one.ask()
    assert two.search.ask() is SourceSignal.WAIT
    assert fail_trials_of_dead_drivers(two.study, two.folder, "two") == 1
    assert two.ask().id == lost.id
    assert two.states == ["FAIL", "RUNNING"]


def test_two_drivers_share_the_budget_and_no_configuration(own):
    drivers = [own(name, trials=6) for name in ("one", "two")]
    given = [drivers[n % 2].ask() for n in range(6)]
    assert len({trial.id for trial in given}) == 6
    assert [one.search.ask() for one in drivers] == [SourceSignal.WAIT, SourceSignal.WAIT]
    for n, trial in enumerate(given):
        drivers[n % 2].finish(trial, n / 10)
    assert [one.search.ask() for one in drivers] == [SourceSignal.DONE, SourceSignal.DONE]
    assert [trial.value for trial in drivers[0].trials] == [n / 10 for n in range(6)]


def test_other_objectives_are_another_study(own):
    own(objectives={"image_auroc": "maximize"})
    for objectives in (
        {"aupro": "maximize"},
        {"image_auroc": "minimize"},
        {"image_auroc": "maximize", "aupro": "maximize"},
    ):
        with pytest.raises(InvalidInput, match=r"search\.objectives: the study has \{'image_auroc': 'maximize'\}"):
            own(objectives=objectives)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("study.db", "Could not parse"),
        ("nosuchdatabase://here", "nosuchdatabase"),
        ("sqlite:////no/such/folder/study.db", "unable to open database file"),
        ("postgresql+psycopg://search:secret@127.0.0.1:1/postgres", "127.0.0.1"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_without_the_password(driven, url, reason):
    with pytest.raises(InvalidInput) as refused:
        driven(None, {"url": url})
    (line,) = str(refused.value).splitlines()
    assert line.startswith("--storage: ")
    assert reason in line
    assert "allowed: a URL that Optuna takes" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    "url",
    ["postgresql+psycopg://u:p@secret@127.0.0.1:1/db", "postgresql://u:p@h1,u:secret@h2/db", "pg://u:p/secret@h@"],
)
def test_a_url_whose_password_could_be_taken_for_a_host_connects_to_nothing(driven, monkeypatch, url):
    monkeypatch.setattr(storage, "RDBStorage", lambda url: pytest.fail("it connected"))
    with pytest.raises(InvalidInput, match=r"^--storage: pg?[a-z+]*://\*\*\* cannot be taken apart") as refused:
        driven(None, {"url": url})
    assert "secret" not in str(refused.value)
    assert "%40" in str(refused.value)


@pytest.mark.parametrize(("errors", "opens"), [(4, True), (5, False)])
def test_a_database_that_another_driver_creates_is_tried_five_times(driven, monkeypatch, tmp_path, errors, opens):
    calls, pauses = [], []
    connect = storage.RDBStorage

    def fail_at_first(url):
        calls.append(url)
        if len(calls) <= errors:
            raise DBAPIError("CREATE TABLE", None, Exception("table alembic_version already exists"))
        return connect(url)

    def open_database():
        return driven(None, {"url": f"sqlite:///{tmp_path}/study.db"})

    # The fixture `driven` replaces RDBStorage when it is made, so that its connections are closed.
    monkeypatch.setattr(storage, "RDBStorage", fail_at_first)
    monkeypatch.setattr(storage.time, "sleep", pauses.append)
    if opens:
        assert open_database().states == []
    else:
        with pytest.raises(InvalidInput, match="already exists"):
            open_database()
    assert (len(calls), pauses) == (5, [0.2] * 4)


def test_a_journal_lies_in_the_results_folder_and_a_torn_last_line_is_cut_off(driven):
    one = driven({"seeds": 1}, trials=2)
    one.finish(one.ask(), 0.5)
    journal = one.folder / JOURNAL
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_id": "half')
    two = driven({"seeds": 1}, trials=2)
    assert two.trials[0].value == 0.5
    two.run(lambda _: 0.25)
    three = driven({"seeds": 1}, trials=2)
    assert [trial.value for trial in three.trials] == [0.5, 0.25]


def test_a_folder_in_the_place_of_the_journal_is_named(driven):
    one = driven({"seeds": 1}, trials=2)
    one.finish(one.ask(), 0.5)
    journal = one.folder / JOURNAL
    journal.unlink()
    journal.mkdir()
    with pytest.raises(InvalidInput, match=r"study.journal: is a folder in the place of the search's journal; move it"):
        driven({"seeds": 1}, trials=2)
    assert storage.set_aside_damaged_journal(one.folder) is None
