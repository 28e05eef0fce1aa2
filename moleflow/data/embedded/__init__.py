"""The embedded images: leather, grid and transistor look-alikes with exact defect masks.

They are used if no data root is given. They are rendered once into a cache folder in the MVTec AD
layout and read as any other data set. They are the same to the last bit on every machine (see
`drawing`). Each image has random streams of its own, so adding a class or an image changes no
other. Pillow only encodes PNG, because its drawing routines change between releases.

A mask is exact by construction: each defective image is rendered a second time without its defect,
in the same light, texture and sensor noise, and the mask marks the pixels that differ.

Sizes and contrasts of the defects range from subtle to plain: a memory bank on the default features
reaches .75 to .97 image AUROC in each class (benchmarks/embedded_difficulty.py measures it).
"""
