"""The commands that the documentation shows are run, in the order of their page, on generated images and on sweeps made small."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.sweep.sweep import load_sweep

REPOSITORY = Path(__file__).parents[2]
PAGES = ["README.md", "slurm/README.md", *sorted(f"docs/{path.name}" for path in REPOSITORY.glob("docs/*.md"))]
EVIDENCE = ["benchmarks/README.md", "results/README.md", "results/measured/README.md", "results/published/README.md"]
PROGRAMS = ("moleflow-sweep", "make", "python", "pip", "sbatch", "ssh", "sudo", "scontrol", "eval")
SMALL = {
    "data": {"image_size": 32, "mask_size": 32, "tasks": ["leather", "grid"]},
    "backbone": {
        "model": "efficientnet_lite0",
        "weights": "random",
        "layers": [1, 2],
        "aggregate": "concat",
        "grid": 4,
    },
    "flow": {"blocks": 2},
    "lora": {"rank": 2},
    "training": {"epochs": 1, "batch_size": 4, "optimizer": "adamw"},
}
CLASSES = {"mvtec": ("leather", "grid", "transistor"), "images": ("bolt", "nut")}
Words = tuple[str, ...]


def commands(page: str) -> list[Words]:
    """The commands in a page's code blocks, indented or fenced as shell, without their comments."""
    found, fence = [], None
    for line in (REPOSITORY / page).read_text().replace("\\\n", " ").splitlines():
        opened = re.match(r"^```(\w*)$", line)
        if opened:
            fence = opened[1] if fence is None else None
        elif fence in ("", "sh", "bash") or (fence is None and line.startswith("    ")):
            words = shlex.split(re.sub(r"\s{3,}[a-z].*$", "", line.strip()), comments=True)
            found += [tuple(words)] if words and words[0] in PROGRAMS else []
    return found


def written_out(page: str) -> Iterator[tuple[str, str]]:
    """(file, text) of the YAML blocks of a page that name a file in the text before them, or follow one that does."""
    name = ""
    for before, block in re.findall(r"(.*?)```yaml\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL):
        name = next(iter(re.findall(r"`((?:sweeps|moleflow/versions)/\w+\.yaml)`", before)[-1:]), name)
        if name:
            yield name, block


def shrunk(text: str) -> str:
    """A sweep file on the small base, with two seeds, or a search of two configurations."""
    sweep = yaml.safe_load(text)
    own = sweep["base"] if isinstance(sweep.get("base"), dict) else {}
    sweep["base"] = {"extends": "../base.yaml"} | {key: own[key] for key in ("tasks",) if key in own}
    sweep["seeds"] = 2
    if "search" in sweep:
        sweep["search"] |= {"trials": 2, "final_seeds": 1}
        sweep["seeds"] = 1
        sweep["base"] |= {"validation_fraction": 0.25, "validation_anomalies": "synthetic"}
    return yaml.safe_dump(sweep)


@pytest.fixture
def home(tmp_path: Path, draw: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make a home for a page: images, the project's sweeps made small, and the sweeps that the page writes out."""

    def make(page: str) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for root, names in CLASSES.items():
            for n, name in enumerate(names):
                draw(tmp_path / "home" / root / name, 32, n)
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(SMALL))
        shutil.copytree(REPOSITORY / "slurm" / "profiles", tmp_path / "slurm" / "profiles")
        shutil.copy(tmp_path / "slurm/profiles/devcluster.yaml", tmp_path / "slurm/profiles/mylab.yaml")
        sweeps = [(f"sweeps/{path.name}", path.read_text()) for path in (REPOSITORY / "sweeps").glob("*.yaml")]
        sweeps += [(name, text) for name, text in written_out(page) if name.startswith("sweeps/")]
        (tmp_path / "sweeps").mkdir()
        for name, text in sweeps:
            (tmp_path / name).write_text(shrunk(text))
        return tmp_path

    return make


def typed(words: Words, place: Path, run: Callable[..., Any]) -> list[str]:
    """The words as a shell and a reader would give them; results that a page takes for granted are made."""
    found = []
    for word in words[1:]:
        folder = re.match(r"results/(\w+)", word)
        name = "v7_gamma" if folder and folder[1] == "NAME" else folder[1] if folder else ""
        if folder and not (place / "results" / name).exists():
            ended = run(f"sweeps/{name}.yaml", "--data", place / "home/mvtec", "--backend", "inline", "--quiet")
            assert ended.code == 0, ended.err
        found.append(word.replace("results/NAME", "results/v7_gamma").replace("-efficientnet", "-base"))
        if word.startswith("~"):
            found[-1] = str(place / "home") + word[1:]
        elif word in ("efficientnet", "demo"):  # The small one in its place.
            found[-1] = "base.yaml"
        elif word == "TRIAL":
            found[-1] = next((place / found[-2] / "attempts").glob("*.json")).name[:12]
    return [*found, "--base", "base.yaml"] if words[1] == "trial" and "--base" not in words else found


SERVES = "dashboard"  # Until it is stopped; tests/orchestrator/study/test_dashboard.py clicks through it.


def run_all(page: str, backends: Words, place: Path, command: Callable[..., Any], *more: str) -> None:
    """Run the page's commands that ask for one of the backends, and those that look at results, in order."""
    for words in commands(page):
        if words[0] != "moleflow-sweep" or words[1] == SERVES or asked_backend(words) not in (*backends, None):
            continue
        given = typed(words, place, command)
        ended = command(*given, *(more if asked_backend(words) else ()))
        assert ended.code == 0, f"{shlex.join(words)}\n{ended.err}"
        assert (ended.out + ended.err).strip()


def asked_backend(words: Words) -> str | None:
    """The backend of a command that runs trials, None for the others."""
    runs = words[1].endswith(".yaml") or words[1] in ("plan", "trial", "prefetch")
    return words[words.index("--backend") + 1] if "--backend" in words else "local" if runs else None


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("docs/extending.md", "slurm/README.md")])
def test_commands_of(page, home, command):
    run_all(page, ("local", "inline"), home(page), command)


@pytest.mark.ray
def test_the_command_for_ray(home, command):
    run_all("docs/backends.md", ("ray",), home("docs/backends.md"), command, "--workers", "1", "--no-dashboard")


@pytest.mark.slurm
def test_the_commands_for_slurm(home, command):
    run_all("docs/backends.md", ("slurm",), home("docs/backends.md"), command)


@pytest.mark.slurm
def test_the_scripts_of_the_page_for_those_who_run_a_cluster(home, command, monkeypatch):
    place = home("slurm/README.md")
    monkeypatch.setenv("MOLEFLOW_DATA", str(place / "home/mvtec"))
    run_all("slurm/README.md", ("slurm",), place, command, "--print-sbatch")


def test_the_version_that_the_page_adds_runs(home, command):
    page = "docs/extending.md"
    place = home(page)
    shutil.copytree(REPOSITORY / "moleflow", place / "moleflow")
    shutil.copytree(REPOSITORY / "orchestrator", place / "orchestrator")
    for name, text in written_out(page):
        (place / name).write_text(text)
    (words,) = [typed(words, place, command) for words in commands(page) if words[0] == "moleflow-sweep"]
    environment = os.environ | {"PYTHONPATH": str(place), "MOLEFLOW_CACHE": str(place / "cache")}
    run = [sys.executable, "-m", "orchestrator.cli", *words]
    ended = subprocess.run(run, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "v8" in ended.stdout


@pytest.mark.parametrize("page", [*PAGES, *EVIDENCE])
def test_what_other_commands_name_is_there(page):
    """Commands of other programs, of hours, or of other machines: targets, files and options exist."""
    targets = re.findall(r"^(\w[\w-]*):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    for words in commands(page):
        if words[0] == "make":
            assert set(words[1:]) <= set(targets), words
        elif words[0] == "python":
            source = (REPOSITORY / words[1]).read_text()
            options = [word for word in words[2:] if word.startswith("--")]
            unknown = [option for option in options if not re.search(rf'"{option}"|name\}}"', source)]
            assert not unknown, (words, unknown)
        elif words[0] == "pip":
            extra = re.search(r"\[(\w+)\]", words[-1])
            assert (
                extra is None
                or extra[1]
                in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            )
        for word in words:
            if (
                re.fullmatch(r"(slurm|results/measured|sweeps)/[\w./-]+\.(sh|sbatch|yaml)", word)
                and "mylab" not in word
            ):
                assert (REPOSITORY / word).exists() or word in dict(written_out(page)), word


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("results/measured/*/sweep.yaml")), ids=lambda p: p.parent.name)
def test_the_sweep_behind_measured_tables_is_still_one(path):
    assert load_sweep(path, data_root=Path("/images")).name
