from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import moleflow.features.backbone
from moleflow.environment import Environment
from moleflow.errors import InvalidInput
from moleflow.features.backbone import FrozenBackbone, timm
from moleflow.features.weights import PACKAGE, weights_file
from moleflow.settings.config import TrialConfig

Images = npt.NDArray[np.uint8]


def settings(size: int = 32, **knobs: object) -> TrialConfig:
    """A small ViT with random weights, unless said otherwise."""
    given = {"model": "test_vit", "weights": "random", "layers": [1, 3]} | knobs
    return TrialConfig.model_validate({"data": {"image_size": size}, "backbone": given})


def pictures(count: int, size: int = 32) -> Images:
    """Random images."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def normalised(model: torch.nn.Module, images: Images) -> torch.Tensor:
    """Images as the model wants them: (N, 3, S, S)."""
    record = timm.get_pretrained_cfg(model.pretrained_cfg["architecture"])  # type: ignore[index]
    return ((torch.tensor(images) / 255 - torch.tensor(record.mean)) / torch.tensor(record.std)).permute(0, 3, 1, 2)


def raw(config: TrialConfig, images: Images) -> list[torch.Tensor]:
    """All layers (N, C, h, w) of the configured random model, built here with timm alone."""
    torch.manual_seed(config.backbone.weights_seed)
    name = config.backbone.model
    size = {"img_size": config.data.image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    model = timm.create_model(name, num_classes=0, **size).eval()
    with torch.no_grad():
        maps: list[torch.Tensor] = model.forward_intermediates(normalised(model, images), intermediates_only=True)
    return maps


def near(a: torch.Tensor, b: torch.Tensor) -> None:
    """Equal up to the rounding of differently blocked sums."""
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


# --- what comes out -------------------------------------------------------------------------------


def test_mean_of_vit_blocks(environment: Environment) -> None:
    config = settings()
    backbone = FrozenBackbone(config, environment)
    features = backbone.extract(pictures(3))
    assert (backbone.width, backbone.grid) == (64, 2)
    assert (features.shape, features.dtype, features.requires_grad) == ((3, 2, 2, 64), torch.float32, False)
    maps = raw(config, pictures(3))
    near(features, ((maps[1] + maps[3]) / 2).permute(0, 2, 3, 1))


def test_the_raw_block_is_read_with_hooks(environment: Environment) -> None:
    """A hook on block 2: its class token taken off by hand, no final norm."""
    config = settings(64, layers=[2])
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, img_size=64).eval()
    seen: list[torch.Tensor] = []
    model.blocks[2].register_forward_hook(lambda _module, _given, out: seen.append(out))
    with torch.no_grad():
        model(normalised(model, pictures(1, 64)))
    assert seen[0].shape == (1, 1 + 16, 64)
    near(FrozenBackbone(config, environment).extract(pictures(1, 64)), seen[0][:, 1:].reshape(1, 4, 4, 64))


def test_class_and_register_tokens_are_dropped(environment: Environment) -> None:
    """1 class and 4 register tokens before 2 x 2 patches: 9 tokens, the square of 3."""
    config = settings(28, model="vit_small_patch14_reg4_dinov2", layers=[0])
    torch.manual_seed(0)
    model = timm.create_model(config.backbone.model, num_classes=0, img_size=28).eval()
    seen: list[torch.Tensor] = []
    model.blocks[0].register_forward_hook(lambda _module, _given, out: seen.append(out))
    with torch.no_grad():
        model(normalised(model, pictures(1, 28)))
    assert seen[0].shape == (1, 9, 384)
    near(FrozenBackbone(config, environment).extract(pictures(1, 28)), seen[0][:, 5:].reshape(1, 2, 2, 384))


def test_cnn_stages_side_by_side(environment: Environment) -> None:
    config = settings(64, model="test_resnet", layers=[3, 1], aggregate="concat")
    backbone = FrozenBackbone(config, environment)
    maps = raw(config, pictures(2, 64))
    coarse = maps[3]
    assert backbone.grid == coarse.shape[-1]
    finer = F.adaptive_avg_pool2d(maps[1], coarse.shape[-1])
    near(backbone.extract(pictures(2, 64)), torch.cat([coarse, finer], 1).permute(0, 2, 3, 1))
    assert backbone.width == coarse.shape[1] + finer.shape[1]


def test_stages_are_those_of_features_only(environment: Environment) -> None:
    config = settings(64, model="test_efficientnet", layers=[2], aggregate="concat")
    torch.manual_seed(0)
    stages = timm.create_model("test_efficientnet", features_only=True)
    assert FrozenBackbone(config, environment).width == stages.feature_info.channels()[2]


def test_a_finer_grid_is_bilinear(environment: Environment) -> None:
    config = settings(layers=[1], grid=5)
    expected = F.interpolate(raw(config, pictures(2))[1], size=5, mode="bilinear").permute(0, 2, 3, 1)
    near(FrozenBackbone(config, environment).extract(pictures(2)), expected)


def test_the_neighbourhood_mean_does_not_dim_the_border(environment: Environment) -> None:
    config = settings(64, layers=[1], neighbourhood=3)
    features = FrozenBackbone(config, environment).extract(pictures(1, 64))[0]
    grid = raw(config, pictures(1, 64))[1][0].permute(1, 2, 0)
    near(features[0, 0], grid[:2, :2].mean(dim=(0, 1)))
    near(features[1, 2], grid[0:3, 1:4].mean(dim=(0, 1)))


def test_projection_is_a_seeded_matrix(environment: Environment) -> None:
    plain = FrozenBackbone(settings(layers=[1]), environment).extract(pictures(8)).reshape(-1, 64)
    one, same, other = (
        FrozenBackbone(settings(layers=[1], projection=48, projection_seed=seed), environment).extract(pictures(8))
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    matrix = torch.randn(64, 48, generator=torch.Generator().manual_seed(3)) / 8
    near(one.reshape(-1, 48), plain @ matrix)


def test_a_uniform_projection_starts_as_torchs_linear_layer(environment: Environment) -> None:
    """Weights and bias are uniform in +-1/sqrt(in); least squares recovers them from features."""
    images = np.random.default_rng(1).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    plain = FrozenBackbone(settings(layers=[1]), environment).extract(images).reshape(-1, 64)
    config = settings(layers=[1], projection=48, projection_init="uniform", projection_seed=3)
    found = FrozenBackbone(config, environment).extract(images).reshape(-1, 48)
    inputs = torch.cat([plain, torch.ones(len(plain), 1)], dim=1).double()
    solved = torch.linalg.lstsq(inputs, found.double()).solution
    near(found.double(), inputs @ solved)
    weight, bias = solved[:64], solved[64]
    for values in (weight, bias):
        assert values.abs().max() < 1 / 8 + 1e-3
    # Variance 1/(3 in), known to 2 % of 3072 draws; those of N(0, 1/in) would have three times it.
    assert weight.var().item() == pytest.approx(1 / (3 * 64), rel=0.08)
    assert bias.var().item() == pytest.approx(1 / (3 * 64), rel=0.5)
    other = FrozenBackbone(settings(layers=[1], projection=48, projection_init="uniform"), environment)
    assert not torch.allclose(other.extract(images).reshape(-1, 48), found)


def test_pixels_are_normalised_by_imagenet_if_asked(environment: Environment) -> None:
    """test_vit's own statistics are 0.5; timm's constants are the reference for ImageNet's."""
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    given = pictures(2)
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    pixels = (torch.tensor(given) / 255 - torch.tensor(IMAGENET_DEFAULT_MEAN)) / torch.tensor(IMAGENET_DEFAULT_STD)
    with torch.no_grad():
        maps = model.forward_intermediates(pixels.permute(0, 3, 1, 2), intermediates_only=True)
    found = FrozenBackbone(settings(layers=[1], normalisation="imagenet"), environment).extract(given)
    near(found, maps[1].permute(0, 2, 3, 1))
    assert not torch.allclose(found, FrozenBackbone(settings(layers=[1]), environment).extract(given))


def test_projection_makes_unequal_widths_equal(environment: Environment) -> None:
    config = settings(64, model="test_resnet", layers=[1, 3], projection=24)
    backbone = FrozenBackbone(config, environment)
    assert (backbone.width, backbone.extract(pictures(1, 64)).shape[-1]) == (24, 24)


# --- PatchCore's patch embedding ------------------------------------------------------------------


def _embedded(layer: torch.Tensor, width: int) -> torch.Tensor:
    """A map (N, C, h, w) by loops: windows padded with zeros, then the mean of each bin."""
    count, channels, rows, columns = layer.shape
    out = torch.zeros(count, width, rows, columns)
    for row, column in np.ndindex(rows, columns):
        window = torch.zeros(count, channels, 3, 3)
        for down, across in np.ndindex(3, 3):
            y, x = row + down - 1, column + across - 1
            if 0 <= y < rows and 0 <= x < columns:
                window[:, :, down, across] = layer[:, :, y, x]
        numbers = window.reshape(count, channels * 9)
        for place in range(width):
            start, stop = place * channels * 9 // width, -(-(place + 1) * channels * 9 // width)
            out[:, place, row, column] = numbers[:, start:stop].mean(dim=1)
    return out


@pytest.mark.parametrize("width", [20, 64, 1000])  # 64 * 9 = 576 numbers: bins overlap, fit, repeat.
def test_the_patch_embedding_is_that_of_loops(environment: Environment, width: int) -> None:
    config = settings(64, layers=[1], pooled_width=width)
    backbone = FrozenBackbone(config, environment)
    assert (backbone.width, backbone.grid) == (width, 4)
    near(backbone.extract(pictures(2, 64)), _embedded(raw(config, pictures(2, 64))[1], width).permute(0, 2, 3, 1))


@pytest.mark.parametrize("aggregate", ["mean", "concat"])
def test_coarser_layers_are_embedded_on_their_own_grid_and_then_enlarged(
    environment: Environment, aggregate: str
) -> None:
    config = settings(64, model="test_resnet", layers=[1, 3], aggregate=aggregate, pooled_width=24)
    backbone = FrozenBackbone(config, environment)
    maps = raw(config, pictures(2, 64))
    fine, coarse = _embedded(maps[1], 24), _embedded(maps[3], 24)
    assert coarse.shape[-1] < fine.shape[-1] == backbone.grid, "the first named layer gives the grid"
    enlarged = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
    joined = (fine + enlarged) / 2 if aggregate == "mean" else torch.cat([fine, enlarged], dim=1)
    near(backbone.extract(pictures(2, 64)), joined.permute(0, 2, 3, 1))


def test_a_given_grid_wins_over_that_of_the_first_layer(environment: Environment) -> None:
    config = settings(64, model="test_resnet", layers=[1, 3], grid=2, pooled_width=24)
    backbone = FrozenBackbone(config, environment)
    assert backbone.extract(pictures(1, 64)).shape == (1, 2, 2, 24)


def test_batch_composition_changes_no_bit_of_the_embedding(environment: Environment) -> None:
    config = settings(64, model="efficientnet_lite0", layers=[2, 3], pooled_width=152)
    backbone = FrozenBackbone(config, environment)
    images = pictures(6, 64)
    together = backbone.extract(images)
    assert torch.equal(together, torch.cat([backbone.extract(image[None]) for image in images]))


# --- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "efficientnet_lite0"])
def test_batch_composition_changes_no_bit(environment: Environment, model: str) -> None:
    """In a batch of 16 images, efficientnet_lite0 gives other last bits."""
    backbone = FrozenBackbone(settings(64, model=model, layers=[2, 3], aggregate="concat"), environment)
    images = pictures(16, 64)
    together = backbone.extract(images)
    assert torch.equal(together, torch.cat([backbone.extract(image[None]) for image in images]))
    assert torch.equal(together[[3, 0]], backbone.extract(images[[3, 0]]))


def test_a_filled_up_batch_gives_the_same_features(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, as a GPU does it: batches of 4 for 6 images, the last one filled with zeros."""
    single = FrozenBackbone(settings(), environment).extract(pictures(6))
    monkeypatch.setitem(moleflow.features.backbone._BATCH, "cpu", 4)
    batched = FrozenBackbone(settings(), environment).extract(pictures(6))
    near(batched, single)


def test_random_weights_come_from_their_seed_alone(environment: Environment) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = FrozenBackbone(settings(), environment).extract(pictures(1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(FrozenBackbone(settings(), environment).extract(pictures(1)), first)
    assert not torch.allclose(FrozenBackbone(settings(weights_seed=1), environment).extract(pictures(1)), first)


# --- weights --------------------------------------------------------------------------------------


def test_the_packages_weights_load_strictly(environment: Environment) -> None:
    config = settings(224, model="efficientnet_lite0", weights=PACKAGE, layers=[2, 3], aggregate="concat")
    backbone = FrozenBackbone(config, environment)
    assert (backbone.width, backbone.grid) == (40 + 112, 14)
    path = weights_file(config.backbone)
    assert path is not None
    stem = torch.load(path, weights_only=True)["_conv_stem.weight"]
    assert torch.equal(backbone._model.conv_stem.weight, stem)
    assert torch.isfinite(backbone.extract(pictures(1, 224))).all()


@pytest.mark.parametrize("form", ["safetensors", "pth", "nested"])
def test_a_local_file_at_another_size_and_in_half_precision(
    environment: Environment, tmp_path: Path, form: str
) -> None:
    torch.manual_seed(5)
    model = timm.create_model("test_vit")  # 160 pixels, with a classifier.
    state = {name: value.half() for name, value in model.state_dict().items()}
    path = tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if form == "nested" else state, path)
    backbone = FrozenBackbone(settings(weights=str(path)), environment)
    assert torch.equal(backbone._model.blocks[1].attn.qkv.weight, state["blocks.1.attn.qkv.weight"].float())
    assert backbone._model.pos_embed.shape[1] == 1 + 2 * 2
    assert backbone.extract(pictures(1)).dtype == torch.float32


def refusal(environment: Environment, size: int = 32, **knobs: object) -> str:
    """The message with which a backbone is refused: one line."""
    with pytest.raises(InvalidInput) as caught:
        FrozenBackbone(settings(size, **knobs), environment)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_weights_that_do_not_fit(environment: Environment, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = timm.create_model("test_vit").state_dict()
    save_file({name: value for name, value in state.items() if "blocks.1." not in name}, path)
    message = refusal(environment, weights=str(path))
    assert "does not fit test_vit at 32 pixels" in message
    assert 'Missing key(s) in state_dict: "blocks.1.' in message
    save_file(state | {"extra": torch.zeros(1)}, path)
    assert 'Unexpected key(s) in state_dict: "extra"' in refusal(environment, weights=str(path))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_file_that_holds_no_weights(environment: Environment, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"not weights")
    assert f"{name}: no safetensors or torch weight file" in refusal(environment, weights=str(path))


def test_a_pickle_with_code_is_not_run(environment: Environment, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": Path("x")}, path)
    assert "no safetensors or torch weight file" in refusal(environment, weights=str(path))


def test_the_packages_weights_under_another_model(environment: Environment) -> None:
    assert "fits backbone.model efficientnet_lite0, given 'test_vit'" in refusal(environment, weights=PACKAGE)


# --- refusals -------------------------------------------------------------------------------------


def test_unknown_models(environment: Environment) -> None:
    message = refusal(environment, model="vit_bse_patch16_224")
    assert "no model 'vit_bse_patch16_224'. Did you mean 'vit_base_patch16_224'?" in message
    message = refusal(environment, model="vit_tiny_patch16_224.augreg_in21")
    assert "vit_tiny_patch16_224.augreg_in21k_ft_in1k" in message
    assert "Did you mean 'vit_tiny_patch16_224.augreg_in21k'?" in message


def test_suggestions_keep_the_tag(environment: Environment) -> None:
    for given in ("resnet18.a1_in1", "resnt18.a1_in1k", "timm/resnet18.a1_in1", "hf_hub:timm/resnt18.a1_in1k"):
        assert "Did you mean 'resnet18.a1_in1k'?" in refusal(environment, model=given)
    assert "only timm's own models can be used" in refusal(environment, model="hf_hub:somebody/else")


def test_layers_that_are_not_there(environment: Environment) -> None:
    assert "given 6, but test_vit has the layers 0 to 5" in refusal(environment, layers=[1, 6])
    assert "given -1" in refusal(environment, layers=[-1])
    assert "name each layer once" in refusal(environment, layers=[1, 1])


def test_layers_that_cannot_be_averaged(environment: Environment) -> None:
    message = refusal(environment, 64, model="test_resnet", layers=[1, 3])
    assert "layers 1, 3 are 32, 192 wide; take aggregate: concat, or set backbone.projection" in message


def test_an_image_size_that_cuts_patches(environment: Environment) -> None:
    assert "given 40, but test_vit needs a multiple of 16; set 32" in refusal(environment, 40)


def test_pretrained_weights_that_cannot_be_had(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refusal(environment, model="test_vit4", weights="pretrained")
    assert "timm's weights of test_vit4 cannot be fetched" in message
    assert "give a downloaded file as backbone.weights" in message


def test_images_of_the_wrong_kind(environment: Environment) -> None:
    backbone = FrozenBackbone(settings(), environment)
    with pytest.raises(ValueError, match="allowed: uint8"):
        backbone.extract(pictures(1, 16))
