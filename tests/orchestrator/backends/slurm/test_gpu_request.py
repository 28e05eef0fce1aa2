"""The GPUs that a trial asks for: by the sweep, else by the profile or the partition."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from moleflow.errors import InvalidInput
from orchestrator.backends.slurm.gpu_request import gpus_of_trial
from orchestrator.backends.slurm.site_profile import SiteProfile

Device = Literal["auto", "cpu", "cuda"]


def asked(given: float | None, partition_has: bool | None, device: Device = "auto", **keys: Any) -> float:
    """The GPUs of a trial; `partition_has` None = SLURM must not be asked."""

    def find(partition: str | None) -> bool:
        assert partition_has is not None, "SLURM was asked"
        assert partition == keys.get("partition")
        return partition_has

    return gpus_of_trial(given, SiteProfile.model_validate(keys), device, "s.yaml", find)


def test_a_site_with_gpus_gives_each_trial_one_unless_the_sweep_says_otherwise() -> None:
    assert asked(None, None, gres="gpu:a100:{gpus}") == 1
    assert asked(None, True, partition="gpu") == 1
    assert asked(None, False) == 0
    assert asked(0.5, None, gres="gpu:{gpus}") == 0.5
    assert asked(2, None) == 2
    assert asked(0, False) == 0


def test_the_device_decides_before_the_site() -> None:
    assert asked(None, None, "cpu", gres="gpu:{gpus}") == 0
    assert asked(0, None, "cpu", gres="gpu:{gpus}") == 0
    assert asked(1, None, "cpu") == 0
    assert asked(None, None, "cuda") == 1


def test_a_site_that_gives_gpus_without_a_request_is_not_asked_for_any() -> None:
    for device in ("auto", "cuda"):
        assert asked(None, None, device, gres=None) == asked(0, None, device, gres=None) == 0
    assert asked(0.5, None, gres=None) == 0.5  # Two trials share the GPU.


@pytest.mark.parametrize(
    ("keys", "has", "place"),
    [
        ({"gres": "gpu:{gpus}"}, None, "the profile has gres"),
        ({"partition": "gpu"}, True, "partition gpu has GPUs"),
        ({}, True, "the default partition has GPUs"),
    ],
)
def test_no_gpu_on_a_site_with_gpus_is_refused_with_the_line_that_answers(
    keys: dict[str, Any], has: bool | None, place: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        asked(0, has, **keys)
    assert str(raised.value) == (
        f"s.yaml: resources.gpus: given 0, but {place}, and without a GPU its jobs would train on the CPU; "
        "give --set resources.gpus=1, or --device cpu if that is meant"
    )


def test_no_gpu_for_cuda_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"resources\.gpus: given 0 with --device cuda; give --set resources.gpus=1"):
        asked(0, None, "cuda")
