from __future__ import annotations

from pathlib import Path

from moleflow.data.dataset import Dataset, open_dataset


def test_a_folder_gives_the_data_set_its_name(tmp_path: Path) -> None:
    root = tmp_path / "mvtec"
    root.mkdir()
    assert open_dataset(root, tmp_path / "cache") == Dataset("mvtec", root, generated=False)
