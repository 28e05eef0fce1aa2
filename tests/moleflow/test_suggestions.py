"""The word that was meant is named, by its parts, its meaning or its spelling."""

from __future__ import annotations

import pytest

from moleflow.settings.knobs import fields, short_names
from moleflow.suggestions import hint_at

KNOBS = [*fields(), *short_names()]
COMMANDS = ("run", "plan", "report", "compare", "diff", "export", "predict", "status", "logs", "cancel", "data")
FOLDERS = ("exports", "results/photos", "results/photos-all", "results/other")


@pytest.mark.parametrize(
    ("given", "allowed", "meant"),
    [
        ("val_fraction", KNOBS, "'validation_fraction'"),
        ("gamma", KNOBS, "'focal_gamma' or 'later_gamma'"),
        ("gamma", ("gamma_dims", "focal_gamma"), "'focal_gamma'"),
        ("batch", KNOBS, "'batch_size'"),
        ("lerning_rate", KNOBS, "'learning_rate'"),
        ("loss.gamma", KNOBS, "'loss.focal_gamma'"),
        ("size", ("mask_size", "batch_size", "image_size"), "'batch_size', 'image_size' or 'mask_size'"),
        ("score", COMMANDS, "'predict'"),
        ("Train", COMMANDS, "'run'"),
        ("exprot", COMMANDS, "'export'"),
        ("gpu", ("auto", "cpu", "cuda"), "'cuda'"),
        ("photos", FOLDERS, "'results/photos'"),
        ("gpu", ("gpus", "trials_per_gpu"), "'gpus'"),
        ("--worker", ("--workers", "--out"), "'--workers'"),
        ("LEATHER", ("leather", "grid"), "'leather'"),
        ("leathr", ("leather", "grid"), "'leather'"),
        ("tra", ("transistor", "grid"), "'transistor'"),
        (7, ("7", "8"), "'7'"),
    ],
)
def test_the_word_that_was_meant_is_named(given: object, allowed: list[str], meant: str) -> None:
    assert hint_at(given, allowed) == f". Did you mean {meant}?"


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ("t", ("transistor",)),  # One letter is too little.
        ("le", ("leather", "lemonade")),
        ("zipper", ("leather", "grid")),
        ("batch", ("patches", "compare")),
        ("", ("leather",)),
        ("a", ()),
        ("seed", ("seed one", "seed two", "seed three", "seed four")),
    ],
)
def test_nothing_is_named_that_is_not_likely(given: str, allowed: tuple[str, ...]) -> None:
    assert hint_at(given, allowed) == ""
