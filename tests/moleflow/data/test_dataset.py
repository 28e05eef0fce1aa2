from __future__ import annotations

from pathlib import Path

from moleflow.data.dataset import Dataset, open_dataset


def test_a_folder_gives_the_data_set_its_name(tmp_path: Path) -> None:
    root = tmp_path / "mvtec"
    root.mkdir()
    assert open_dataset(root, tmp_path / "cache") == Dataset("mvtec", root, generated=False)


def test_without_a_root_the_images_are_the_embedded_ones(tmp_path: Path) -> None:
    found = open_dataset(None, tmp_path)
    assert (found.name, found.generated) == ("embedded", True)
    assert tmp_path in found.root.parents
