"""The embedded images: leather, grid and transistor look-alikes with exact defect masks, drawn from a seed.

They stand in where no data root is given. They are rendered once into a cache folder in the MVTec AD layout, so that
the ordinary reader reads them, and they are the same to the last bit on every machine (`drawing` says how). Each image
has streams of its own, so that adding a class or an image changes no other. Pillow only encodes PNG: its drawing
routines change between releases.

A mask is exact by construction: each defective image is rendered a second time without its defect, in the same light,
texture and sensor noise, and the mask marks the pixels that differ.

Sizes and contrasts of the defects are spread from subtle to plain so that a memory bank on the default features stays
between .75 and .97 image AUROC in each class (benchmarks/embedded_difficulty.py measures it).
"""

from moleflow.data.embedded.drawing import NoiseSource
from moleflow.data.embedded.folder import content_digest, ensure_embedded
from moleflow.data.embedded.rendering import DEFECTS, EMBEDDED_CLASSES, EMBEDDED_VERSION, render, render_image

__all__ = [
    "DEFECTS",
    "EMBEDDED_CLASSES",
    "EMBEDDED_VERSION",
    "NoiseSource",
    "content_digest",
    "ensure_embedded",
    "render",
    "render_image",
]
