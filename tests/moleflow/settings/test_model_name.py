"""Names of timm models as people copy them."""

from __future__ import annotations

import pytest

from moleflow.settings.config import BackboneKnobs, TrialConfig
from moleflow.settings.knobs import Layer, resolve

PLAIN = "resnet18.a1_in1k"
COPIED = [
    PLAIN,
    f"timm/{PLAIN}",
    f"hf_hub:timm/{PLAIN}",
    f"hf-hub:timm/{PLAIN}",
    f"https://huggingface.co/timm/{PLAIN}",
    f"huggingface.co/timm/{PLAIN}/",
]


@pytest.mark.parametrize("name", COPIED)
def test_all_spellings_are_one_model_and_so_one_trial(name: str) -> None:
    config = resolve([Layer("s", {"model": name})])
    assert config == resolve([Layer("s", {"model": PLAIN})])
    assert config.backbone.model == PLAIN


@pytest.mark.parametrize("name", ["hf_hub:other/resnet18", "other/resnet18", "timm/", "timm/a/b", "hf_hub:resnet18"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert BackboneKnobs.model_validate({"model": name}).model == name


def test_the_default_stays() -> None:
    assert TrialConfig.model_validate({}).backbone.model == "vit_base_patch16_224.augreg2_in21k_ft_in1k"
