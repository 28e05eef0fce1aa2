"""MVTec LOCO AD.

    <class>/train/good/*                              normal images
    <class>/validation/good/*                         normal images; not read
    <class>/test/good/*                               normal images
    <class>/test/logical_anomalies/*                  defective images
    <class>/test/structural_anomalies/*               defective images
    <class>/ground_truth/<anomalies>/<stem>/*.png     one mask for each defect of an image

The two kinds of anomaly are the names of the defects. A pixel is defective if any mask of its image
says so; the saturation thresholds of `defects_config.json` are not used. The images of `validation`
are counted as passed over.

P. Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly
Detection and Localization", IJCV 130, 2022, and the readme.txt of its archive.
"""

from __future__ import annotations

from pathlib import Path

from moleflow.data.folders import folders_in, images_in
from moleflow.data.layouts.class_folders import ClassFolders


def _fits(folder: Path) -> bool:
    """True if the masks are in folders of their own."""
    parts = folders_in(folder / "ground_truth")
    return any(folders_in(part) and not images_in(part) for part in parts)


LAYOUT = ClassFolders("mvtec_loco", _fits, mask_folders=True)
