"""MVTec AD, and every set that has its structure, such as MPDD.

    <class>/train/good/*            normal images
    <class>/test/good/*             normal images
    <class>/test/<defect>/*         defective images
    <class>/ground_truth/<defect>/  <stem>_mask.<ext> or <stem>.<ext>; optional as a whole

P. Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021, and the readme.txt of its
archive. S. Jezek et al., "Deep learning-based defect detection of metal parts" (MPDD), ICUMT 2021,
and github.com/stepanje/MPDD: the same structure.
"""

from __future__ import annotations

from pathlib import Path

from moleflow.data.layouts import btad, mvtec_ad_2, mvtec_loco
from moleflow.data.layouts.class_folders import ClassFolders


def _fits(folder: Path) -> bool:
    others = (mvtec_ad_2.LAYOUT, mvtec_loco.LAYOUT, btad.LAYOUT)
    return not any(other.fits(folder) for other in others)


LAYOUT = ClassFolders("mvtec_ad", _fits)
