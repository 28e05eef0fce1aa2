from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from moleflow.errors import InvalidInput
from orchestrator.backends.slurm.site_profile import SiteProfile, load_profile, profile_reference

SLURM = Path(__file__).parents[4] / "slurm"


@pytest.fixture
def load(tmp_path):
    """The profile of a YAML text."""
    path = tmp_path / "lab.yaml"

    def read(text):
        path.write_text(text)
        return load_profile(path)

    return read


@pytest.fixture
def refused(load, tmp_path):
    """The message about a YAML text that must be refused."""

    def read(text):
        with pytest.raises(InvalidInput) as raised:
            load(text)
        said = str(raised.value)
        assert said.startswith(f"{tmp_path / 'lab.yaml'}: ")
        assert "\n" not in said
        return said

    return read


def test_an_empty_profile_has_the_defaults(load):
    profile = load("{}")
    assert profile == SiteProfile()
    assert profile.start_python == shlex.quote(sys.executable)
    assert (profile.gres, profile.trials_per_job, profile.signal_s) == ("gpu:{gpus}", 1, 90)
    assert (profile.max_array_size, profile.parallelism, profile.trials_per_gpu, profile.accounting) == (None,) * 4


def test_every_key_is_taken_as_it_stands(load):
    profile = load("""
partition: "gpu,long"
account: "0815"
gres: gpu:a100:{gpus}
setup: [module load python, ulimit -n 4096]
container: apptainer exec --nv image.sif
python: /opt/bin/python3
max_array_size: 1000
node_cache: $TMPDIR/features
accounting: false
extra: {mail-type: FAIL, nice: 100, exclusive: true, gres-flags: enforce-binding, mem-bind: none, time-min: 10}
""")
    assert profile.partition == "gpu,long"
    assert profile.account == "0815"
    assert profile.gres is not None
    assert profile.gres.format(gpus=2) == "gpu:a100:2"
    assert profile.setup == ["module load python", "ulimit -n 4096"]
    assert profile.accounting is False
    assert profile.extra["exclusive"] is True
    assert profile.extra["nice"] == 100
    assert profile.node_cache == "$TMPDIR/features"


def test_gpus_need_not_be_asked_for(load):
    assert load("gres: null").gres is None


def test_a_misspelled_key(refused):
    said = refused("partitoin: gpu")
    assert "unknown key 'partitoin'; allowed: partition, account, " in said
    assert said.endswith("Did you mean 'partition'?")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("account: 815", "account: given 815, allowed: a text (in quotes if it is a number)"),
        ("partition: ''", "partition: given '', allowed: a text"),
        ('qos: "high\\n#SBATCH --time=9"', "qos: given 'high\\n#SBATCH --time=9', allowed: a text"),
        ("setup: module load cuda", "setup: given 'module load cuda', allowed: [shell lines]"),
        ("setup: [module load cuda, 3]", "setup: given 3, allowed: [shell lines]"),
        ("parallelism: 0", "parallelism: given 0, allowed: a whole number >= 1"),
        ("trials_per_job: 1.5", "trials_per_job: given 1.5, allowed: a whole number >= 1"),
        ("trials_per_job: null", "trials_per_job: given null, allowed: a whole number >= 1"),
        ("signal_s: 65536", "signal_s: given 65536, allowed: a whole number 1..65535"),
        ("mem: per_core", "mem: given 'per_core', allowed: per_node | per_gpu | per_cpu"),
        ("mem: null", "mem: given null, allowed: per_node"),
        ("accounting: maybe", "accounting: given 'maybe', allowed: true or false"),
        ("extra: [nice]", "extra: given ['nice'], allowed: {sbatch option: value}"),
        ("extra: {nice: [1]}", "extra.nice: given [1], allowed: {sbatch option: value}"),
        ("extra: {exclusive: false}", "extra.exclusive: given false, allowed: {sbatch option: value}"),
        ("extra: {--nice: 1}", "extra: given '--nice', allowed: {sbatch option: value}"),
    ],
)
def test_what_is_not_allowed(refused, text, said):
    assert said in refused(text)


@pytest.mark.parametrize("gres", ["gpu:2", "gpu:{gpu}", "gpu:{}", "gpu:{gpus", "gpu:{gpus}:{gpus}", "gpu:{gpus!x}"])
def test_a_gres_that_would_ask_for_something_else(refused, gres):
    assert f"gres: given '{gres}', but it must contain {{gpus}} once" in refused(f"gres: '{gres}'")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("time", "--time is set by the sweep file's resources.time_min"),
        ("partition", "--partition is set by key 'partition'"),
        ("array", "--array is set by keys 'parallelism' and 'max_array_size'"),
        ("signal", "--signal is set by key 'signal_s'"),
        ("mem-per-cpu", "--mem-per-cpu is set by key 'mem' and the sweep file's resources.mem_gb"),
        ("tim", "--time is set by"),  # sbatch completes the names of options
    ],
)
def test_options_that_the_tool_sets(refused, option, said):
    refusal = refused(f"extra: {{{option}: 1}}")
    assert f"extra: given '{option}', but {said}" in refusal
    assert refusal.endswith("leave it out here")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match="no such file"):
        load_profile(tmp_path / "none.yaml")


def test_the_profiles_that_come_with_the_project():
    profiles = {path.stem: load_profile(path) for path in (SLURM / "profiles").glob("*.yaml")}
    assert profiles.keys() == {"example", "devcluster"}
    assert profiles["example"].model_fields_set == SiteProfile.model_fields.keys(), "the example explains every key"


def test_the_page_for_admins_holds_the_reference():
    assert profile_reference() in (SLURM / "README.md").read_text()
