"""The commands and links of the pages work.

Quick checks parse every command and resolve every link. The tests marked `process` run the commands
of each page in their order, on generated images and with sweeps made small.
"""

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
import typer
import yaml

from orchestrator.cli import entry
from orchestrator.cli.usage_errors import UsageError
from orchestrator.sweep.sweep import load_sweep

REPOSITORY = Path(__file__).parents[2]
PAGES = ["README.md", "slurm/README.md", *sorted(f"docs/{path.name}" for path in REPOSITORY.glob("docs/*.md"))]
EVIDENCE = ["benchmarks/README.md", "results/README.md", "results/measured/README.md", "results/published/README.md"]
ALL_PAGES = [*PAGES, *EVIDENCE, "CHANGELOG.md"]
ON_WORKERS = "docs/tutorial.md"  # The page whose commands run on the local backend, as they are written.
GROUP = typer.main.get_command(entry.app)
PROGRAMS = ("moleflow-sweep", "make", "python", "pip", "sbatch", "ssh", "sudo", "scontrol", "eval")
SMALL = {
    "data": {"image_size": 32, "mask_size": 32, "tasks": ["leather", "grid"]},
    "flow": {"blocks": 2},
    "lora": {"rank": 2},
    "training": {"epochs": 1, "batch_size": 4, "optimizer": "adamw"},
}
ROWS = {
    "about": "Rows of a test.",
    "dataset": "mvtec",
    "base": "base.yaml",
    "tasks": ["leather", "grid"],
    "settings": {"seed": 0},
    "runs": [{"name": "v3@224", "version": "v3", "source": "A test.", "settings": {}, "means": {}}],
}
CLASSES = {"mvtec": ("leather", "grid", "transistor"), "images": ("bolt", "nut")}
Words = tuple[str, ...]


def commands(page: str) -> list[Words]:
    """Return the commands in a page's code blocks, indented or fenced as shell."""
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
    """Yield (file, text) of a page's YAML blocks; text before a block names its file."""
    name = ""
    for before, block in re.findall(r"(.*?)```yaml\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL):
        name = next(iter(re.findall(r"`((?:sweeps|moleflow/versions)/\w+\.yaml)`", before)[-1:]), name)
        if name:
            yield name, block


def shrunk(text: str) -> str:
    """Put a sweep on the small base with two seeds, or make a search one of two configurations."""
    sweep = yaml.safe_load(text)
    own = sweep["base"] if isinstance(sweep.get("base"), dict) else {}
    sweep["base"] = {"extends": "../base.yaml"} | {key: own[key] for key in ("tasks",) if key in own}
    sweep["seeds"] = 2
    if "search" in sweep:
        sweep["search"] |= {"trials": 2, "final_seeds": 1}
        sweep["search"]["space"].pop("backbone.layers", None)  # The small backbone has others.
        sweep["seeds"] = 1
        sweep["base"] |= {"validation_fraction": 0.25, "validation_anomalies": "synthetic"}
    return yaml.safe_dump(sweep)


@pytest.fixture
def home(
    tmp_path: Path, draw: Callable[..., None], small_backbone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """The function that makes a folder for a page, with images and with sweeps made small."""

    def make(page: str) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for root, names in CLASSES.items():
            for n, name in enumerate(names):
                draw(tmp_path / "home" / root / name, 32, n)
        for name in CLASSES["images"]:
            images, photos = tmp_path / "home/images" / name, tmp_path / "home/photos" / name
            shutil.copytree(images / "train/good", photos / "ok")
            shutil.copytree(next(kind for kind in (images / "test").iterdir() if kind.name != "good"), photos / "bent")
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(SMALL | {"backbone": small_backbone}))
        (tmp_path / "rows.yaml").write_text(yaml.safe_dump(ROWS))
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
    """Replace words as a shell or a reader would, and make results that a page presumes."""
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
    if words[1] == "reproduce":  # Small rows of the same names in place of the published ones.
        return [*found, "--rows", "rows.yaml", "--backend", "inline"]
    return [*found, "--base", "base.yaml"] if words[1] == "trial" and "--base" not in words else found


SERVES = "dashboard"  # It runs until it is stopped; tests/orchestrator/search/test_dashboard.py covers it.


def run_all(page: str, backends: Words, place: Path, command: Callable[..., Any], *more: str) -> None:
    """Run the page's commands for one of the backends, and those that read results, in order."""
    for words in commands(page):
        backend = asked_backend(words)
        if words[0] != "moleflow-sweep" or words[1] == SERVES or backend not in (*backends, None):
            continue
        given = typed(words, place, command)
        if backend == "local" and "--backend" not in words and runs(words) and page != ON_WORKERS:
            given = [*given, "--backend", "inline"]
        ended = command(*given, *(more if runs(words) else ()))
        assert ended.code == 0, f"{shlex.join(words)}\n{ended.err}"
        assert (ended.out + ended.err).strip()


def runs(words: Words) -> bool:
    """Return if a command runs trials and takes --backend inline."""
    return words[1].endswith(".yaml") or words[1] == "run"


def asked_backend(words: Words) -> str | None:
    """Return the backend of a command that computes, None for the others."""
    if "--backend" in words:
        return words[words.index("--backend") + 1]
    return "local" if runs(words) or words[1] in ("plan", "trial", "prefetch") else None


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip("# ").lower())
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def links(page: str) -> Iterator[str]:
    """Yield the targets of a page's relative links and pictures, outside of code."""
    text = re.sub(r"^```.*?^```", "", (REPOSITORY / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", re.sub(r"`[^`\n]*`", "", text)):
        one = target[0] or target[1]
        if not re.match(r"\w+:", one):
            yield one


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    """A link names a file of the repository, and its anchor a heading of that file."""
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            headings = re.findall(r"^#+ .*$", target.read_text(), flags=re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, link


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_command_of_a_page_is_accepted_by_the_parser(page):
    """The command exists, takes the options shown, and their values have the right type."""
    for words in commands(page):
        if words[0] == "moleflow-sweep":
            rest = list(words[1:])
            if rest[0] == "help" or rest[0].startswith("-"):
                continue
            name = rest.pop(0) if rest[0] in GROUP.commands else "run"
            try:
                GROUP.commands[name].make_context(name, rest)
            except UsageError as error:
                pytest.fail(f"{shlex.join(words)}: {error.format_message()}")
            except typer.Exit:  # It asks for help.
                pass


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_option_in_the_text_of_a_page_exists(page):
    """A command in a sentence may lack arguments, but each option it names exists."""
    for typed_words in re.findall(r"`moleflow-sweep ([\w-]+)([^`\n]*)`", (REPOSITORY / page).read_text()):
        name, rest = typed_words
        group = GROUP.commands.get(name, GROUP.commands["run"])
        known = {option for one in group.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
        assert set(re.findall(r"(?<=\s)--[a-z][\w-]*", rest)) <= known, typed_words


@pytest.mark.process
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


@pytest.mark.process
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
    """Targets of make, options of scripts, extras of pip and named files exist."""
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
