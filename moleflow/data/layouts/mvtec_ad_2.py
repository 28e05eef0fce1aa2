"""MVTec AD 2.

    <class>/train/good/*                        normal images
    <class>/validation/good/*                   normal images; not read, see below
    <class>/test_public/good/*, bad/*           test images
    <class>/test_public/ground_truth/bad/       <stem>_mask.png
    <class>/test_private/, test_private_mixed/  images without labels; not read

`data.validation_fraction` holds out training images, as for every layout. The images of
`validation` and of the private tests are counted as passed over.

L. Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly
Detection", arXiv:2503.21622, and the loader of anomalib 2.7.0 (data/datasets/image/mvtecad2.py).
Scores of the private tests are computed by MVTec's server (benchmark.mvtec.com), as nobody else has
their labels.
"""

from __future__ import annotations

from pathlib import Path

from moleflow.data.folders import is_folder
from moleflow.data.layouts.class_folders import ClassFolders


def _fits(folder: Path) -> bool:
    return is_folder(folder / "test_public") and not is_folder(folder / "test")


LAYOUT = ClassFolders(
    "mvtec_ad_2",
    _fits,
    test="test_public",
    truth="test_public/ground_truth",
    not_kinds=frozenset({"ground_truth"}),
)
