import gc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moleflow.errors import InvalidInput
from moleflow.settings.config import TrialConfig, flatten_config
from moleflow.settings.knobs import Layer, resolve
from orchestrator.sweep import expansion
from orchestrator.sweep.axes import ListedAxis, RandomAxis
from orchestrator.sweep.expansion import Variant, expand, trials_of
from orchestrator.sweep.sweep import Sweep, make_sweep
from orchestrator.sweep.trial import Inputs, Trial, label

INPUTS = Inputs({task: f"digest of {task}" for task in ("leather", "grid", "transistor", "wood")}, "weights", "images")


def make(document: dict[str, Any], **options: Any) -> Sweep:
    return make_sweep(
        {"name": "s", "version": "v3", **document}, "s.yaml", Path(), data_root=Path("/images"), **options
    )


def variants(sweep: Sweep, **options: bool) -> tuple[Variant, ...]:
    return expand(sweep, **options).variants


def trials(sweep: Sweep, inputs: Inputs = INPUTS, **options: bool) -> list[Trial]:
    return trials_of(sweep, variants(sweep, **options), lambda _: inputs)


def factors(document: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    return [dict(variant.factors) for variant in variants(make(document, **options))]


def labels(document: dict[str, Any], **options: Any) -> list[str]:
    return [label(variant.factors) for variant in variants(make(document, **options))]


def test_without_axes_there_is_one_variant() -> None:
    [variant] = variants(make({"base": "vit_b16"}))
    assert variant.factors == {}
    assert variant.config == resolve([*make({"base": "vit_b16"}).layers["v3"]])


def test_a_grid_is_every_combination_the_last_axis_fastest() -> None:
    assert labels({"grid": {"rank": [1, 2], "alpha": [3, 4]}}) == [
        "rank=1 alpha=3", "rank=1 alpha=4", "rank=2 alpha=3", "rank=2 alpha=4",
    ]  # fmt: skip


def test_a_zip_moves_together() -> None:
    assert labels({"zip": {"rank": [1, 2], "alpha": [3, 3]}}) == ["rank=1 alpha=3", "rank=2 alpha=3"]


def test_a_list_gives_its_entries() -> None:
    assert labels({"list": [{"version": "v1"}, {"rank": 4, "version": "v2"}, {"focal_gamma": 1}]}) == [
        "v1", "v2 rank=4", "focal_gamma=1",
    ]  # fmt: skip


def test_the_axes_multiply() -> None:
    document = {
        "grid": {"version": ["v1", "v3"]},
        "zip": {"rank": [1, 2], "alpha": [3, 4]},
        "list": [{"blocks": 4}, {"blocks": 6}],
        "random": {"count": 3, "knobs": {"lr": {"loguniform": [1e-5, 1e-3]}}},
        "seeds": 5,
    }
    sweep = make(document)
    assert len(variants(sweep)) == 2 * 2 * 2 * 3
    assert len(trials(sweep)) == 5 * 24


def test_the_version_is_an_axis_like_any_other() -> None:
    by_version = {
        v.factors["version"]: v.config for v in variants(make({"grid": {"version": ["v1", "v3", "v7"], "rank": [7]}}))
    }
    assert by_version["v1"].adapter.film is False
    assert by_version["v3"].adapter.film is True
    assert by_version["v7"].loss.focal_gamma == 2.0
    assert {config.lora.rank for config in by_version.values()} == {7}
    assert [config.version for config in by_version.values()] == ["v1", "v3", "v7"]


def test_factors_win_over_the_base_and_set_over_the_rest() -> None:
    [variant] = variants(make({"base": {"rank": 3, "alpha": 3}, "grid": {"rank": [5]}}, sets=["alpha=9"]))
    assert (variant.config.lora.rank, variant.config.lora.alpha) == (5, 9.0)


def test_factors_have_the_values_of_the_configuration() -> None:
    for variant in variants(
        make({"grid": {"focal_gamma": [0, 2], "tasks": [["wood", 7]], "lora.scaling": [1, "alpha/rank"]}})
    ):
        flat = flatten_config(variant.config)
        assert {path: repr(flat[path]) for path in variant.factors} == {p: repr(v) for p, v in variant.factors.items()}


def test_when_leaves_an_axis_out_where_it_does_not_apply() -> None:
    document = {
        "grid": {"focal_gamma": [0, 1], "focal_form": ["joint", "relative"]},
        "when": {"focal_form": {"focal_gamma": "> 0"}},
        "base": {"focal_form": "per_dim"},
    }
    found = expand(make(document))
    assert [label(v.factors) for v in found.variants] == [
        "focal_gamma=0", "focal_gamma=1 focal_form=joint", "focal_gamma=1 focal_form=relative",
    ]  # fmt: skip
    assert found.variants[0].config.loss.focal_form == "per_dim", "the base's, where the axis does not apply"
    assert (found.collapsed, found.excluded) == (1, 0)


def test_when_looks_at_the_values_of_version_and_base() -> None:
    document = {"grid": {"version": ["v1", "v2"], "rank": [1, 2]}, "when": {"rank": {"lora.task0": True}}}
    assert labels(document) == ["v1", "v2 rank=1", "v2 rank=2"]


def test_when_follows_axes_that_were_left_out_themselves() -> None:
    # The order in the file must not matter: form depends on gamma, gamma on the version.
    grid = {"focal_form": ["joint", "relative"], "focal_gamma": [1, 2], "version": ["v3", "v7"]}
    when = {"focal_form": {"focal_gamma": "> 0"}, "focal_gamma": {"version": "v7"}}
    expected = {"v3"} | {
        f"v7 focal_form={form} focal_gamma={gamma}" for form in ("joint", "relative") for gamma in (1, 2)
    }
    for order in (list(when), list(reversed(when))):
        found = labels({"grid": grid, "when": {axis: when[axis] for axis in order}})
        assert set(found) == expected
        assert len(found) == len(expected)


def test_exclude_drops_variants_that_meet_all_its_requirements() -> None:
    document = {
        "grid": {"rank": [1, 2, 3], "alpha": [1, 2]},
        "exclude": [{"rank": [1, 2], "alpha": 2}, {"rank": "> 2"}],
    }
    found = expand(make(document))
    assert [label(v.factors) for v in found.variants] == ["rank=1 alpha=1", "rank=2 alpha=1"]
    assert found.excluded == 4


def test_exclude_sees_an_axis_that_was_left_out_at_its_base_value() -> None:
    document = {
        "grid": {"focal_gamma": [0, 1], "focal_form": ["joint", "relative"]},
        "when": {"focal_form": {"focal_gamma": "> 0"}},
        "exclude": [{"focal_form": "relative"}],
    }
    assert labels(document) == ["focal_gamma=0", "focal_gamma=1 focal_form=joint"]


def test_equal_configurations_are_one_variant() -> None:
    # v3's own gamma is 0, and 32 its own rank.
    found = expand(
        make({"list": [{"version": "v3"}, {"focal_gamma": 0}, {"rank": 32, "version": "v3"}, {"focal_gamma": 1}]})
    )
    assert [label(v.factors) for v in found.variants] == ["v3", "focal_gamma=1"]
    assert found.collapsed == 2


def test_repeated_draws_are_one_variant() -> None:
    found = expand(make({"random": {"count": 50, "knobs": {"focal_form": {"choice": ["joint", "relative"]}}}}))
    assert len(found.variants) == 2
    assert found.collapsed == 48


def test_a_variant_that_cannot_be_names_its_factors() -> None:
    with pytest.raises(InvalidInput) as error:
        expand(make({"grid": {"rank": [4], "tasks": [["a"], ["a", "a"]]}}))
    assert "s.yaml: variant rank=4 tasks=a,a: " in str(error.value)
    assert "'a' is given twice; name each class once" in str(error.value)


def test_nothing_left() -> None:
    with pytest.raises(InvalidInput, match="exclude leaves no variant"):
        expand(make({"grid": {"rank": [1, 2]}, "exclude": [{"rank": ">= 1"}]}))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"grid": {"focal_gamma": [0, 1]}, "report": {"baseline": {"focal_gamma": 0}}}, True),
        ({"grid": {"rank": [1, 2]}, "exclude": [{"rank": 1}], "report": {"baseline": {"rank": 1}}}, False),
        ({"list": [{"version": "v3"}, {"rank": 4}], "report": {"baseline": {"rank": 32}}}, True),  # v3's own rank
        ({"list": [{"version": "v3"}, {"rank": 4}], "report": {"baseline": {"rank": 31}}}, False),
        ({"random": {"count": 2, "knobs": {"rank": {"integer": [2, 4]}}}, "report": {"baseline": {"rank": 9}}}, False),
    ],
)
def test_the_baseline_has_to_be_there(document: dict[str, Any], expected: bool) -> None:
    if expected:
        assert expand(make(document)).variants
    else:
        with pytest.raises(InvalidInput, match=r"report\.baseline: no variant has rank=.*the first variants are: "):
            expand(make(document))


def test_trials_are_variants_times_seeds() -> None:
    found = trials(make({"grid": {"rank": [1, 2]}, "seeds": [3, 5]}))
    assert [trial.label for trial in found] == ["rank=1 seed=3", "rank=1 seed=5", "rank=2 seed=3", "rank=2 seed=5"]
    assert [trial.config.seed for trial in found] == [3, 5, 3, 5]
    assert len({trial.id for trial in found}) == 4
    assert all(trial.inputs is INPUTS for trial in found)


def test_extending_a_sweep_keeps_its_ids() -> None:
    document = {
        "grid": {"focal_gamma": [0, 1]},
        "random": {"count": 2, "knobs": {"lr": {"uniform": [1e-4, 1e-3]}}},
        "seeds": 2,
    }
    before = {trial.id for trial in trials(make(document))}
    more = document | {"grid": {"focal_gamma": [0, 1, 2]}, "random": {**document["random"], "count": 4}, "seeds": 3}  # type: ignore[dict-item]
    after = {trial.id for trial in trials(make(more))}
    assert len(before) == 8
    assert len(after) == 36
    assert before < after


def test_too_many_trials_are_counted_without_expanding_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(axis: object) -> None:
        raise AssertionError("an axis was expanded")

    monkeypatch.setattr(ListedAxis, "__iter__", opened)
    monkeypatch.setattr(RandomAxis, "__iter__", opened)
    knobs = ("rank", "alpha", "blocks", "epochs", "focal_gamma", "top_k", "batch_size")
    for document in (
        {"grid": {name: list(range(1, 11)) for name in knobs}},
        {"random": {"count": 10**7, "knobs": {"rank": {"integer": [1, 9]}}}},
    ):
        sweep = make(document)
        with pytest.raises(InvalidInput, match=r"10,000,000 trials.*--yes"):
            trials(sweep)


def test_yes_goes_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "LIMIT", 3)
    sweep = make({"grid": {"rank": [1, 2]}, "seeds": 2})
    with pytest.raises(InvalidInput, match=r"up to 4 trials \(2 combinations, 2 seeds\), more than 3; .*--yes"):
        trials(sweep)
    assert len(trials(sweep, yes=True)) == 4


def test_weights_may_differ_between_variants() -> None:
    sweep = make({"grid": {"backbone.weights": ["a.safetensors", "b.safetensors", "copy of a.safetensors"]}})
    contents = {"a.safetensors": "A", "b.safetensors": "B", "copy of a.safetensors": "A"}
    by_weights = {path: Inputs(INPUTS.data, content, "images") for path, content in contents.items()}
    found = trials_of(sweep, variants(sweep), lambda config: by_weights[config.backbone.weights])
    assert [trial.config.backbone.weights for trial in found] == ["a.safetensors", "b.safetensors"]


def test_a_task_without_images_is_an_error() -> None:
    with pytest.raises(InvalidInput, match="no images of 'zipper'"):
        trials(make({"base": {"tasks": ["leather", "zipper"]}}))


AXES: dict[str, list[Any]] = {
    "version": ["v1", "v2", "v3", "v5", "v7"],
    "focal_gamma": [0, 0.5, 2],
    "focal_form": ["joint", "relative"],
    "lora.scaling": ["alpha/rank", 1, 0.03],
    "train_images": [None, 8],
    "layers": [[1], [1, 2]],
    "adapter.hidden": ["D//4", 64],
    "image_score": ["max", "top_k"],
}


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(AXES)), st.integers(1, 3), min_size=1, max_size=4),
    st.sampled_from(["published", "efficientnet", "demo"]),
)
def test_variants_are_what_the_layers_resolve_to(chosen: dict[str, int], base: str) -> None:
    sweep = make({"base": base, "grid": {name: AXES[name][:number] for name, number in chosen.items()}})
    for variant in variants(sweep):
        version = str(variant.factors.get("version", "v3"))
        spelled = {path: list(v) if isinstance(v, tuple) else v for path, v in variant.factors.items()}
        expected = resolve([*sweep.layers[version], Layer("factors", spelled)])
        assert variant.config == expected
        assert TrialConfig.model_validate_json(variant.config.model_dump_json(), strict=False) == expected


@pytest.mark.parametrize("enabled", [True, False])
def test_expanding_leaves_the_garbage_collector_as_it_was(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        trials(make({"grid": {"rank": [1, 2]}}))
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


def test_a_yardstick_adds_a_memory_bank_for_each_footing_and_seed() -> None:
    document = {"grid": {"version": ["v1", "v3"], "rank": [4, 8], "neighbourhood": [1, 3]}, "seeds": 2}
    plain, measured = trials(make(document)), trials(make(document | {"yardstick": "memory_bank"}))
    assert [trial.id for trial in measured[: len(plain)]] == [trial.id for trial in plain]
    banks = measured[len(plain) :]
    assert [trial.label for trial in banks] == [
        f"memory_bank neighbourhood={side} seed={seed}" for side in (1, 3) for seed in (0, 1)
    ]
    for trial in banks:
        assert trial.config.version == "memory_bank"
        assert trial.config.bank.enabled
        assert trial.config.lora == TrialConfig().lora
    assert len({trial.id for trial in measured}) == len(measured)


def test_a_footing_has_the_images_backbone_scoring_router_and_bank_of_its_variants() -> None:
    base = {"mask_size": 96, "image_score": "max", "shrinkage": 0.5, "bank.patches": 50, "bank.pick": "coreset"}
    *_, bank = trials(make({"base": base | {"epochs": 7, "scoring.log_det": "image_mean"}, "yardstick": "memory_bank"}))
    found = flatten_config(bank.config)
    expected = {"data.mask_size": 96, "scoring.image_score": "max", "router.shrinkage": 0.5}
    expected |= {"bank.patches": 50, "bank.pick": "coreset", "bank.enabled": True}
    defaults = flatten_config(TrialConfig()) | {"version": "memory_bank", "training.epochs": 1}
    assert found == defaults | expected


def test_knobs_of_a_bank_make_banks_and_no_further_version() -> None:
    found = trials(make({"grid": {"bank.pick": ["random", "coreset"]}, "yardstick": "memory_bank"}))
    assert [trial.config.version for trial in found] == ["v3", "memory_bank", "memory_bank"]
    assert [trial.config.bank.pick for trial in found[1:]] == ["random", "coreset"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"base": {"bank.enabled": True}}, "bank.enabled: is no setting of a version; write `yardstick: memory_bank`"),
        ({"grid": {"bank.enabled": [True, False]}}, "bank.enabled: is no setting of a version"),
        ({"yardstick": "flow"}, "yardstick: given 'flow', allowed: memory_bank"),
        (
            {"yardstick": "memory_bank", "search": {"space": {"rank": {"choice": [2, 4]}}, "trials": 2}},
            "yardstick: given with search",
        ),
        ({"yardstick": "memory_bank", "early_stopping": {"rule": "asha"}}, "yardstick: given with early_stopping"),
    ],
)
def test_a_memory_bank_comes_from_its_key_alone(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        make(document)
    assert message in str(raised.value)


def test_a_spec_names_a_yardstick_only_where_there_is_one() -> None:
    assert "yardstick" not in make({}).spec()
    assert make({"yardstick": "memory_bank"}).spec() == make({}).spec() | {"yardstick": "memory_bank"}


def test_groups_of_knobs_are_checked_together_in_every_variant() -> None:
    off = {"lora.enabled": [True, False], "adapter.enabled": [True, False]}
    with pytest.raises(
        InvalidInput, match=r"variant lora.enabled=false adapter.enabled=false: lora.enabled: given false"
    ):
        variants(make({"grid": off}))
    assert len(variants(make({"grid": off, "exclude": [{"lora.enabled": False, "adapter.enabled": False}]}))) == 3


def test_an_axis_may_make_possible_what_its_base_alone_is_not() -> None:
    base = {"lora.enabled": False, "adapter.enabled": False}
    couplings = [
        one.config.auxiliary.couplings
        for one in variants(make({"base": base, "grid": {"auxiliary.couplings": [1, 2]}}))
    ]
    assert couplings == [1, 2]


def test_a_baseline_that_several_variants_have_is_refused_where_no_other_differs_by_it_alone() -> None:
    fitting = [{"rank": 4, "hidden_share": 0.1}, {"rank": 8, "hidden_share": 0.1}]
    report = {"report": {"baseline": {"hidden_share": 0.1}}}
    assert expand(make({"list": [*fitting, {"rank": 8, "hidden_share": 0.2}]} | report)).variants
    with pytest.raises(
        InvalidInput, match=r"2 variants have hidden_share=0\.1, and no other variant .* name more knobs"
    ):
        expand(make({"list": [*fitting, {"rank": 16, "hidden_share": 0.2}]} | report))
