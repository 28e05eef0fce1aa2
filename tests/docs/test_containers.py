"""The two definitions of a container hold the same files and run the same commands."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DOCKER = (REPOSITORY / "slurm/Dockerfile").read_text().replace("\\\n", " ")
APPTAINER = (REPOSITORY / "slurm/moleflow.def").read_text()


def section(name: str) -> list[str]:
    """The lines of a section of the Apptainer definition, without comments."""
    text = re.split(r"^%", APPTAINER, flags=re.MULTILINE)
    (body,) = [part.partition("\n")[2] for part in text if part.startswith(f"{name}\n")]
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKER, flags=re.MULTILINE)


def test_both_copy_the_same_files_which_are_there() -> None:
    copied = [source for line in instructions("COPY") for source in line.split()[:-1]]
    assert copied == [line.split()[0] for line in section("files")]
    assert all((REPOSITORY / source).exists() for source in copied)
    places = {line.split()[0]: line.split()[1] for line in section("files")}
    assert places == {source: f"/opt/moleflow-sweep/{source}" for source in copied}


def test_both_run_the_same_commands_by_default() -> None:
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)$", DOCKER, flags=re.MULTILINE)
    run = instructions("RUN")[0].replace("${EXTRAS}", extras)
    assert [" ".join(step.split()) for step in run.split("&&")] == section("post")


def test_both_begin_with_the_same_base_and_set_the_same_variables() -> None:
    (base,) = re.findall(r"^ARG BASE=(\S+)$", DOCKER, flags=re.MULTILINE)
    assert f"\nFrom: {base}\n" in APPTAINER
    (variables,) = instructions("ENV")
    assert variables.split() == [line.removeprefix("export ") for line in section("environment")]
