from pathlib import Path
from typing import Any

import pytest

from moleflow.errors import InvalidInput
from orchestrator.sweep.sweep import Sweep, make_sweep

REAL = Path("/images")


def make(document: dict[str, Any], **options: Any) -> Sweep:
    return make_sweep({"name": "s", "version": "v7", "seeds": 5, **document}, "s.yaml", Path(), **options)


@pytest.mark.parametrize(
    ("document", "options", "name", "base", "seeds"),
    [
        ({"base": "vit_b16"}, {"data_root": REAL}, "s", "vit_b16", 5),
        ({"base": "vit_b16"}, {}, "s-demo", "demo", 2),
        ({"base": "vit_b16"}, {"base": "demo"}, "s-demo", "demo", 2),
        ({"base": "vit_b16"}, {"base": "demo", "data_root": REAL}, "s-demo-data", "demo", 5),
        ({"base": "vit_b16"}, {"base": "vit_b16"}, "s-embedded", "vit_b16", 5),
        ({"base": "vit_b16"}, {"base": "vit_b16", "data_root": REAL}, "s", "vit_b16", 5),
        ({"base": "vit_b16"}, {"base": "efficientnet"}, "s-efficientnet-embedded", "efficientnet", 5),
        ({"base": "vit_b16"}, {"base": "efficientnet", "data_root": REAL}, "s-efficientnet", "efficientnet", 5),
        ({"base": "vit_b16", "without_data": {"seeds": [7]}}, {}, "s-demo", "demo", 1),
        (
            {"base": "vit_b16", "without_data": {"base": "efficientnet", "seeds": 3}},
            {},
            "s-efficientnet",
            "efficientnet",
            3,
        ),
        ({"base": "demo"}, {}, "s", "demo", 5),
        ({"base": "demo"}, {"data_root": REAL}, "s-data", "demo", 5),
        ({"base": "demo", "without_data": {"seeds": 1}}, {}, "s", "demo", 1),
        ({"base": {"extends": "demo", "epochs": 1}}, {}, "s", "demo with own settings", 5),
        ({"base": {"epochs": 1}}, {"data_root": REAL}, "s", "the defaults with own settings", 5),
        ({}, {}, "s-demo", "demo", 2),
    ],
)
def test_the_base_and_the_seeds_that_run(
    document: dict[str, Any], options: dict[str, Any], name: str, base: str, seeds: int
) -> None:
    sweep = make(document, **options)
    assert (sweep.name, sweep.base, len(sweep.seeds)) == (name, base, seeds)


def test_no_two_bases_share_a_name() -> None:
    bases = [None, "demo", "vit_b16", "efficientnet", "published"]
    bases_by_name: dict[str, set[str]] = {}
    for base in bases:
        for root in (None, REAL):
            sweep = make({"base": "vit_b16"}, base=base, data_root=root)
            bases_by_name.setdefault(sweep.name, set()).add(f"{sweep.base} {root}")
    assert all(len(held) == 1 for held in bases_by_name.values()), bases_by_name


def test_the_note_says_what_was_replaced() -> None:
    assert make({"base": "vit_b16"}).note == (
        "no data root given: the same axes on base demo, embedded images (generated), 2 seeds instead of 5"
    )
    assert make({"base": "vit_b16"}, base="demo").note == make({"base": "vit_b16"}).note
    assert make({"base": "vit_b16"}, data_root=REAL).note == ""
    assert make({"base": "vit_b16"}, base="demo", data_root=REAL).note == "on base demo instead of vit_b16"
    assert make({"base": "demo"}).note == "no data root given: embedded images (generated)"


def test_axes_and_set_apply_to_the_replacing_base_too() -> None:
    sweep = make({"base": {"extends": "vit_b16", "blocks": 6}, "grid": {"rank": [1, 2]}}, sets=["epochs=2"])
    settings = sweep.settings("v7")
    assert sweep.knobs == ("lora.rank",)
    assert settings["training.epochs"] == 2
    assert settings.get("flow.blocks") != 6, "the demo's, not the replaced base's"


TASKS_GRID = {"version": "v3", "grid": {"tasks": [[["bolt", "nut"], "seal"]]}}
ON_EMBEDDED = {"tasks": [[["leather", "grid"], "transistor"], ["leather"]]}


@pytest.mark.parametrize(
    ("root", "tasks"),
    [
        (None, [(("leather", "grid"), "transistor"), ("leather",)]),
        (Path("/images"), [(("bolt", "nut"), "seal")]),
    ],
)
def test_an_axis_of_tasks_has_values_of_its_own_on_the_embedded_images(root: Path | None, tasks: list[Any]) -> None:
    document = {"name": "s", **TASKS_GRID, "without_data": ON_EMBEDDED}
    found = make_sweep(document, "the test", Path(), data_root=root)
    assert found.knobs == ("data.tasks",)
    assert [axis.values("data.tasks") for axis in found.axes] == [tasks]


def test_tasks_without_data_need_an_axis() -> None:
    with pytest.raises(InvalidInput, match=r"the test: without_data\.tasks: data\.tasks is no axis under grid"):
        make_sweep({"name": "s", "version": "v3", "without_data": ON_EMBEDDED}, "the test", Path(), data_root=None)
