"""The embedded images: leather, grid and transistor look-alikes with exact defect masks, drawn from a seed.

They stand in where no data root is given. They are rendered once into a cache folder in the MVTec AD layout, so that
the ordinary reader reads them, and they are the same to the last bit on every machine. That asks for three things:

* numbers come from the raw 64-bit stream of PCG64, the part of numpy's generators that is promised never to change,
  and each image has streams of its own, so that adding a class or an image changes no other;
* pixels are made of + - * / and sqrt in float32, element by element: IEEE 754 fixes the last bit of those. There is
  no sin, exp or matrix product, and no float sum whose order a CPU may choose (cumsum runs in order);
* Pillow only encodes PNG; its drawing routines, which change between releases, are not used.

A mask is exact by construction: each defective image is rendered a second time without its defect, in the same light,
texture and sensor noise, and the mask marks the pixels that differ.

Sizes and contrasts of the defects are spread from subtle to plain so that a memory bank on the default features stays
between .75 and .97 image AUROC in each class (benchmarks/embedded_difficulty.py measures it).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

EMBEDDED_VERSION = "1"
EMBEDDED_CLASSES = ("leather", "grid", "transistor")
SIZE = 256  # pixels a side
TRAIN_GOOD, TEST_GOOD = 60, 40
DEFECTS = {
    "leather": {"cut": 10, "fold": 10, "glue": 10, "stain": 10},
    "grid": {"bent": 14, "broken": 13, "thread": 13},
    "transistor": {"bent_lead": 10, "cut_lead": 10, "damaged_case": 10, "misplaced": 10},
}

Plane = npt.NDArray[np.floating[Any]]  # float32: (256, 256), or (256, 256, 3) for an image in 0..255
Pixels = npt.NDArray[np.uint8]
Point = tuple[float, float]  # x to the right, y down, in pixels

Y, X = (axis.astype(np.float32) for axis in np.mgrid[0:SIZE, 0:SIZE])


class Draws:
    """Numbers of one stream, named by a key: the raw 64-bit output of PCG64."""

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:16], "big"))

    def field(self, rows: int, columns: int) -> Plane:
        """Uniform numbers in [0, 1), shape (rows, columns)."""
        raw = np.asarray(self._bits.random_raw(rows * columns), dtype=np.uint64)
        return ((raw >> np.uint64(40)).astype(np.float32) * 2.0**-24).reshape(rows, columns)

    def grain(self, *shape: int) -> Plane:
        """Noise in [-1, 1) of triangular density: sums of two 16-bit numbers, four to a draw. Even sizes only."""
        raw = np.asarray(self._bits.random_raw(math.prod(shape) // 2), dtype="<u8")
        pairs = raw.view("<u2").astype(np.float32).reshape(2, *shape)
        noise: Plane = (pairs[0] + pairs[1]) * 2.0**-16 - 1
        return noise

    def between(self, low: float, high: float) -> float:
        """One uniform number in [low, high)."""
        return low + (high - low) * float(self.field(1, 1)[0, 0])

    def integer(self, count: int) -> int:
        """One of 0 .. count - 1."""
        return int(self.between(0, count))

    def sign(self) -> float:
        """-1 or 1."""
        return 1.0 if self.between(0, 1) < 0.5 else -1.0


# ---- shapes and textures -------------------------------------------------------------------------------------------


def _rotation(half_tangent: float) -> tuple[float, float]:
    """Cosine and sine of an angle a given as tan(a / 2): rational, so exact to the last bit everywhere."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def _turned(x: Plane, y: Plane, half_tangent: float) -> tuple[Plane, Plane]:
    """Coordinates turned about the origin."""
    cosine, sine = _rotation(half_tangent)
    return cosine * x - sine * y, sine * x + cosine * y


def _turned_point(point: Point, centre: Point, half_tangent: float) -> Point:
    """`point` turned about `centre`."""
    cosine, sine = _rotation(half_tangent)
    x, y = point[0] - centre[0], point[1] - centre[1]
    return centre[0] + cosine * x - sine * y, centre[1] + sine * x + cosine * y


def _rgb(red: float, green: float, blue: float) -> Plane:
    """A colour, shape (3,)."""
    return np.array([red, green, blue], dtype=np.float32)


def _smooth(t: Plane) -> Plane:
    """Smooth step of `t` clipped to 0..1: 3t^2 - 2t^3."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _noise(draws: Draws, cell: float) -> Plane:
    """Value noise in [-1, 1]: random numbers on a lattice of `cell` pixels, smoothly interpolated."""
    count = int(SIZE / cell) + 3
    lattice = draws.field(count, count) * 2 - 1
    position = np.arange(SIZE) / cell + draws.between(0, 1)
    low = np.floor(position).astype(np.int64)
    share = _smooth((position - low).astype(np.float32))
    rows = lattice[low] * (1 - share)[:, None] + lattice[low + 1] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share


def _box(image: Plane, radius: int) -> Plane:
    """Mean over a square of 2 * radius + 1 pixels, by running sums; the border repeats its last pixel."""
    window = 2 * radius + 1
    for _ in range(2):  # down the rows, then, axes swapped, along them
        width = [(radius + 1, radius)] + [(0, 0)] * (image.ndim - 1)
        total = np.cumsum(np.pad(image, width, mode="edge"), axis=0)
        image = ((total[window:] - total[:-window]) / window).swapaxes(0, 1)
    return image


def _distance(points: Sequence[Point], reach: float) -> Plane:
    """Distance in pixels to the line through `points`, capped at `reach`."""
    result = np.full((SIZE, SIZE), reach, dtype=np.float32)
    for (ax, ay), (bx, by) in itertools.pairwise(points):
        left, right = (max(0, int(edge)) for edge in (min(ax, bx) - reach, max(ax, bx) + reach + 2))
        top, bottom = (max(0, int(edge)) for edge in (min(ay, by) - reach, max(ay, by) + reach + 2))
        window = (slice(top, bottom), slice(left, right))
        dx, dy = bx - ax, by - ay
        along = np.clip(((X[window] - ax) * dx + (Y[window] - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        aside, below = X[window] - ax - along * dx, Y[window] - ay - along * dy
        result[window] = np.minimum(result[window], np.sqrt(aside * aside + below * below))
    return result


def _inside(distance: Plane) -> Plane:
    """Share of a pixel that lies inside a shape, from the signed distance to its edge (negative inside)."""
    share: Plane = np.clip(0.5 - distance, 0, 1)
    return share


def _blend(image: Plane, share: Plane, colour: Plane) -> Plane:
    """`image` with `share` (256, 256) of `colour` (three numbers or an image) laid over it."""
    rows, columns = np.flatnonzero(share.any(axis=1)), np.flatnonzero(share.any(axis=0))
    if not len(rows):
        return image
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))  # most shapes are small
    result = image.copy()
    result[window] += share[window][..., None] * (np.broadcast_to(colour, image.shape)[window] - image[window])
    return result


def _path(draws: Draws, length: float, bend: float, margin: float, steps: int = 6) -> list[Point]:
    """A curved line (quadratic Bezier) of about `length` pixels at a random angle, its middle off the border."""
    cx, cy = draws.between(margin, SIZE - margin), draws.between(margin, SIZE - margin)
    cosine, sine = _rotation(draws.between(-1, 1))
    ux, uy = cosine * length / 2, sine * length / 2
    aside = draws.between(-bend, bend)
    mx, my = cx - uy * aside, cy + ux * aside
    shares = [step / steps for step in range(steps + 1)]
    return [
        (
            (1 - s) * (1 - s) * (cx - ux) + 2 * s * (1 - s) * mx + s * s * (cx + ux),
            (1 - s) * (1 - s) * (cy - uy) + 2 * s * (1 - s) * my + s * s * (cy + uy),
        )
        for s in shares
    ]


def _blob(draws: Draws, radius: float, centre: Point) -> Plane:
    """Signed distance to the edge of a ragged spot (negative inside)."""
    dx, dy = X - centre[0], Y - centre[1]
    ragged = 0.35 * _noise(draws, radius * 0.8) + 0.12 * _noise(draws, max(3.0, radius * 0.25))
    edge: Plane = np.sqrt(dx * dx + dy * dy) - radius * (1 + ragged)
    return edge


# ---- leather -------------------------------------------------------------------------------------------------------


def _pebbles(draws: Draws, u: Plane, v: Plane) -> Plane:
    """Grain height 0..1: the gap between the nearest and second nearest of scattered points (Worley noise)."""
    jitter_x, jitter_y = 0.15 + 0.7 * draws.field(64, 64), 0.15 + 0.7 * draws.field(64, 64)
    left, top = np.floor(u), np.floor(v)
    column, row, u, v = left.astype(np.int64), top.astype(np.int64), u - left, v - top
    first, second = np.full_like(u, 9), np.full_like(u, 9)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            i, j = (row + dy) & 63, (column + dx) & 63
            x, y = jitter_x[i, j] + dx - u, jitter_y[i, j] + dy - v
            square = x * x + y * y
            second = np.minimum(second, np.maximum(first, square))
            first = np.minimum(first, square)
    height: Plane = np.clip((np.sqrt(second) - np.sqrt(first)) * 2.2, 0, 1)
    return height


def _leather(scene: Draws, kind: str, defect: Draws) -> Plane:
    """Brown pebbled leather under slanting light; `kind` is a defect or "good"."""
    u, v = _turned(X, Y, scene.between(-1, 1))
    pitch = scene.between(8.5, 11.5)
    warp = 0.35 * _noise(scene, 40)
    grain = _pebbles(scene, u / pitch + warp, v / (pitch * scene.between(0.85, 1.2)) - warp)
    height = _box(grain, 1) * scene.between(0.8, 1.2) + 0.25 * _noise(scene, 5) + 0.6 * _noise(scene, 24)
    slope_x, slope_y = np.diff(height, axis=1, prepend=height[:, :1]), np.diff(height, axis=0, prepend=height[:1])
    relief = scene.between(0.25, 0.45) * (slope_x + slope_y * scene.between(0.3, 1.2))
    shade = 0.82 + 0.18 * grain + relief + scene.between(0.02, 0.06) * _noise(scene, 60)
    colour = _rgb(122.0, 74.0, 47.0) * scene.between(0.88, 1.12)
    colour *= _rgb(1.0, scene.between(0.96, 1.04), scene.between(0.94, 1.06))
    image: Plane = shade[..., None] * colour
    for _ in range(scene.integer(3)):  # pores and old scars, harmless: what makes a good image hard
        spot = _inside(_blob(scene, scene.between(1.5, 4.0), (scene.between(8, 248), scene.between(8, 248))))
        image = _blend(image, spot * scene.between(0.15, 0.4), colour * 0.45)
    if kind == "cut":
        width = defect.between(0.7, 1.8)
        distance = _distance(_path(defect, defect.between(24, 90), 0.25, 40), width + 3) - width
        lip = _inside(np.abs(distance - 1.5) - 0.8) * defect.between(0.1, 0.35)
        image = _blend(image, lip, colour * 1.5)
        image = _blend(image, _inside(distance) * defect.between(0.3, 0.85), colour * 0.3)
    elif kind == "fold":
        width = defect.between(5, 11)  # a dark crease between two raised, brighter flanks
        across = _distance(_path(defect, defect.between(70, 240), 0.15, 60, 10), width) / width
        crease, flank = _smooth(1 - across * 2.2), _smooth(1 - np.abs(across - 0.55) / 0.45)
        image = image * (1 + defect.between(0.12, 0.4) * (0.6 * flank - crease))[..., None]
    elif kind in ("glue", "stain"):
        radius = defect.between(7, 22)
        share = _inside(_blob(defect, radius, (defect.between(30, 226), defect.between(30, 226))) * 0.5)
        if kind == "glue":
            image = _blend(image, share * defect.between(0.35, 0.9), _box(image, 3) * 1.04 + defect.between(4, 26))
        else:
            tint = _rgb(defect.between(0.3, 0.9), defect.between(0.3, 0.9), defect.between(0.4, 1.1))
            image = _blend(image, share * defect.between(0.25, 0.6), image * tint)
    return image


# ---- grid ----------------------------------------------------------------------------------------------------------


def _wires(across: Plane, along: Plane, pitch: float, width: float) -> tuple[Plane, Plane, Plane]:
    """Wires at whole multiples of `pitch`: their coverage, their shading 0..1 and their height in the weave."""
    index = np.floor(across / pitch + 0.5)
    offset = across - index * pitch
    round_ = np.clip(1 - (offset / width) * (offset / width), 0, 1)
    lit = np.sqrt(round_) * (0.75 - 0.25 * offset / width)
    position = along / pitch + index
    wave = position - 2 * np.floor(position / 2 + 0.5)  # -1 .. 1, period two crossings
    rise = 1 - 2 * wave * wave * (2 - wave * wave)  # 1 over a crossing, -1 under the next
    return _inside(np.abs(offset) - width), lit, rise


def _grid(scene: Draws, kind: str, defect: Draws) -> Plane:
    """Woven metal mesh over a dark ground; `kind` is a defect or "good"."""
    u, v = _turned(X - 128, Y - 128, scene.between(-0.02, 0.02))
    pitch, width = scene.between(19.5, 21.5), scene.between(2.8, 3.5)
    sway = scene.between(0.6, 1.6)
    u = u + scene.between(0, 2) * pitch + sway * _noise(scene, 50)
    v = v + scene.between(0, 2) * pitch + sway * _noise(scene, 50)
    moved, gap = np.zeros_like(X), np.zeros_like(X)
    cx, cy = defect.between(36, 220), defect.between(36, 220)
    if kind == "bent":
        radius = defect.between(18, 42)
        near = np.clip(1 - ((X - cx) * (X - cx) + (Y - cy) * (Y - cy)) / (radius * radius), 0, 1)
        moved = near * near * defect.between(4, 10) * defect.sign()
    elif kind == "broken":
        row, column = int(cy), int(cx)
        index = np.floor(u[row, column] / pitch + 0.5)
        length = defect.between(5, 22)
        gap = _inside(np.maximum(np.abs(u - index * pitch) - pitch / 2, np.abs(v - v[row, column]) - length))
    brightness = scene.between(140, 185)
    ground = scene.between(28, 52) + 8 * _noise(scene, 70) + 5 * _noise(scene, 4)
    one, one_lit, one_rise = _wires(u + moved, v, pitch, width)
    two, two_lit, two_rise = _wires(v, u, pitch, width)
    one = one * (1 - gap)
    tarnish = 1 + 0.10 * _noise(scene, 7) + 0.08 * _noise(scene, 30)
    one_grey = brightness * tarnish * (0.25 + 0.9 * one_lit) * (0.86 + 0.14 * one_rise)
    two_grey = brightness * tarnish * (0.22 + 0.8 * two_lit) * (0.86 - 0.14 * two_rise)
    over = one_rise > 0
    lower, upper = np.where(over, two, one), np.where(over, one, two)
    grey = ground + lower * (np.where(over, two_grey, one_grey) - ground)
    grey = grey + upper * (np.where(over, one_grey, two_grey) - grey)
    image: Plane = grey[..., None] * _rgb(1.0, scene.between(0.98, 1.02), scene.between(0.96, 1.04))
    for _ in range(scene.integer(3)):  # specks of dust, harmless
        spot = _inside(_blob(scene, scene.between(1.0, 2.2), (scene.between(8, 248), scene.between(8, 248))))
        image = _blend(image, spot * 0.4, _rgb(150.0, 148.0, 140.0))
    if kind == "thread":
        width = defect.between(0.7, 1.5)
        line = _inside(_distance(_path(defect, defect.between(30, 110), 0.8, 50, 10), width + 2) - width)
        grey_level = defect.between(90, 210)
        tint = _rgb(grey_level, grey_level * defect.between(0.8, 1), grey_level * defect.between(0.7, 1))
        image = _blend(image, line * defect.between(0.55, 1), tint)
    return image


# ---- transistor ----------------------------------------------------------------------------------------------------


def _transistor(scene: Draws, kind: str, defect: Draws) -> Plane:
    """A three-legged black part on copper strip board; `kind` is a defect or "good"."""
    hole_x, hole_y, pitch = 128 + scene.between(-7, 7), 212 + scene.between(-9, 9), 56.0  # hole of the middle lead
    along, down = (X - hole_x) / pitch, (Y - hole_y) / pitch
    along, down = (along - np.floor(along + 0.5)) * pitch, (down - np.floor(down + 0.5)) * pitch
    copper = _rgb(184.0, 116.0, 90.0) * scene.between(0.9, 1.1)
    copper *= _rgb(1.0, scene.between(0.95, 1.05), scene.between(0.93, 1.07))
    stained = 1 + 0.06 * _noise(scene, 60) + 0.05 * _noise(scene, 9) + 0.05 * _noise(scene, 2.5)
    image = _blend(stained[..., None] * copper, _inside(pitch / 2 - np.abs(along) - 4.5), copper * 0.32)
    ring = np.sqrt(along * along + down * down) - scene.between(9.5, 11)
    image = _blend(image, 0.35 * _inside(np.abs(ring) - 1.2), copper * 1.4)
    image = _blend(image, _inside(ring), _rgb(40.0, 30.0, 29.0))
    for _ in range(scene.integer(4)):  # scratches and solder specks on the board, harmless
        line = _distance(_path(scene, scene.between(3, 24), 0.2, 10, 2), 4) - scene.between(0.3, 0.9)
        image = _blend(image, _inside(line) * scene.between(0.1, 0.4), copper * scene.between(0.6, 1.6))

    half_width, half_height = scene.between(49, 52), scene.between(48, 51)
    turn, body = scene.between(-0.012, 0.012), (hole_x + scene.between(-3, 3), hole_y - 122 + scene.between(-4, 4))
    leads: list[list[Point]] = []
    for side in (-1, 0, 1):
        start = body[0] + 27 * side
        knee = (start + 3 * side + scene.between(-2, 2), body[1] + half_height + scene.between(8, 16))
        foot = (hole_x + pitch * side + scene.between(-3, 3), hole_y - scene.between(20, 36))
        leads.append([(start, body[1] + half_height - 4), knee, foot, (hole_x + pitch * side, hole_y + 2)])
    picked = leads[defect.integer(3)]
    missing, twist = False, 0.0
    if kind == "bent_lead":
        aside, up = defect.sign() * defect.between(9, 26), defect.between(-8, 14)
        picked[2] = (picked[2][0] + aside * defect.between(0.3, 0.9), picked[2][1] - up / 2)
        picked[3] = (picked[3][0] + aside, picked[3][1] - up)
    elif kind == "cut_lead":
        kept, share = 1 + defect.integer(3), defect.between(0.05, 0.6)
        (ax, ay), (bx, by) = picked[kept - 1], picked[kept]
        picked[kept:] = [(ax + share * (bx - ax), ay + share * (by - ay))]
    elif kind == "misplaced":
        missing = defect.between(0, 1) < 0.15
        twist, shift = defect.sign() * defect.between(0.03, 0.2), (defect.between(-20, 20), defect.between(-24, 16))
        spin = [_turned_point(point, body, twist) for lead in leads for point in lead]
        moved = [(x + shift[0], y + shift[1]) for x, y in spin]
        leads = [moved[4 * side : 4 * side + 4] for side in range(3)]
        body = (body[0] + shift[0], body[1] + shift[1])

    tin, glint = 0.8 + 0.3 * _noise(scene, 4), scene.between(185, 225)
    for lead in leads if not missing else []:
        distance = _distance(lead, 8)
        image = image * (1 - 0.3 * np.clip(1 - (distance - 3.5) / 4, 0, 1))[..., None]
        bright = tin * glint * (1 - 0.05 * distance * distance)
        image = _blend(image, _inside(distance - 3.6), bright[..., None] * _rgb(1.0, 0.99, 0.95))
    u, v = _turned(X - body[0], Y - body[1], -(turn + twist))
    corner_x, corner_y = np.maximum(np.abs(u) - half_width + 4, 0), np.maximum(np.abs(v) - half_height + 4, 0)
    edge = np.sqrt(corner_x * corner_x + corner_y * corner_y) - 4
    gloss_at, gloss = scene.between(18, 34), scene.between(16, 34)
    case = 17 + gloss * _smooth(1 - np.abs(u - gloss_at) / 9) + 9 * _smooth(1 - np.abs(u + gloss_at) / 12)
    case = case + 5 * _noise(scene, 2.5) + 5 * _noise(scene, 14) + 22 * np.clip(1 + (edge + 1) / 2.5, 0, 1)
    mark = np.sqrt(u * u + (v - 4) * (v - 4)) - scene.between(13, 16)
    case = case + scene.between(8, 18) * _inside(np.abs(mark) - 0.8)
    if kind == "damaged_case":
        radius = defect.between(7, 15)
        place = (defect.sign() * half_width * defect.between(0.5, 1.0), half_height * defect.between(-1.0, 1.0))
        place = _turned_point((body[0] + place[0], body[1] + place[1]), body, turn)
        chip = defect.between(25, 95) * (0.75 + 0.5 * _noise(defect, 3))
        case = case + _inside(_blob(defect, radius, place)) * (chip - 0.3 * case)
    if not missing:
        image = image * (1 - 0.35 * np.clip(1 - edge / 7, 0, 1))[..., None]
        image = _blend(image, _inside(edge), case[..., None] * _rgb(1.0, 0.98, 1.0))
    return image


# ---- images and the folder -----------------------------------------------------------------------------------------

PAINTERS: dict[str, Callable[[Draws, str, Draws], Plane]] = {
    "leather": _leather,
    "grid": _grid,
    "transistor": _transistor,
}


def render_image(name: str, split: str, kind: str, index: int, with_defect: bool = True) -> Pixels:
    """One image (256, 256, 3) of class `name`; `with_defect=False` leaves the defect out and changes nothing else."""
    key = (EMBEDDED_VERSION, name, split, kind, index)
    image = PAINTERS[name](Draws(*key, "scene"), kind if with_defect else "good", Draws(*key, "defect"))
    camera = Draws(*key, "camera")
    light = camera.between(0.9, 1.1) * (1 + 0.07 * _noise(camera, 200) + camera.between(-0.08, 0.08) * (X - 128) / 128)
    exposed = image * light[..., None] + camera.between(2.0, 4.0) * camera.grain(SIZE, SIZE, 3)
    pixels: Pixels = np.floor(np.clip(exposed, 0, 255) + 0.5).astype(np.uint8)
    return pixels


def _save(pixels: Pixels, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def render(folder: Path) -> None:
    """Write all classes into `folder` in the MVTec AD layout: RGB images, masks of 0 and 255, one byte a pixel."""
    for name in EMBEDDED_CLASSES:
        root = folder / name
        for index in range(TRAIN_GOOD):
            _save(render_image(name, "train", "good", index), root / f"train/good/{index:03d}.png")
        for index in range(TEST_GOOD):
            _save(render_image(name, "test", "good", index), root / f"test/good/{index:03d}.png")
        for kind, count in DEFECTS[name].items():
            for index in range(count):
                pixels = render_image(name, "test", kind, index)
                changed = (pixels != render_image(name, "test", kind, index, with_defect=False)).any(axis=2)
                _save(pixels, root / f"test/{kind}/{index:03d}.png")
                _save(changed.astype(np.uint8) * 255, root / f"ground_truth/{kind}/{index:03d}_mask.png")


def _complete(folder: Path) -> bool:
    """Whether `folder` holds every image and every mask."""
    defective = sum(count for kinds in DEFECTS.values() for count in kinds.values())
    expected = len(EMBEDDED_CLASSES) * (TRAIN_GOOD + TEST_GOOD) + 2 * defective
    return sum(1 for _ in folder.rglob("*.png")) == expected


def _publish(whole: Path, target: Path) -> None:
    """Make the finished folder `whole` the `target` in one step, unless another process was first."""
    if target.is_dir() and not _complete(target):  # somebody deleted a part of it
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, whole.with_name("incomplete"))
    try:
        os.rename(whole, target)
    except OSError:
        if not _complete(target):  # not the other process, but a fault of the disk
            raise


def ensure_embedded(cache: Path) -> Path:
    """The folder of the embedded images below `cache`, rendered on the first call (seconds).

    It appears whole or not at all: rendering goes into a folder beside it, which is then renamed. Of two processes that
    render at once, the later one discards its copy. A folder with files missing is rendered anew.

    Raises:
        OSError: the folder cannot be written.

    """
    target = cache / f"embedded-{EMBEDDED_VERSION}"
    if _complete(target):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{target.name}-") as beside:
        whole = Path(beside) / "whole"
        render(whole)
        _publish(whole, target)
    return target


def content_digest(folder: Path) -> str:
    """SHA-256 over the sorted paths of the PNG files below `folder` and their decoded pixels, whatever encoder wrote.

    Raises:
        OSError: a file is not a readable image.

    """
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*.png"), key=lambda path: path.relative_to(folder).as_posix()):
        with Image.open(path) as image:
            pixels = hashlib.sha256(image.tobytes()).hexdigest()
            whole.update(f"{path.relative_to(folder).as_posix()} {image.mode} {image.size} {pixels}\n".encode())
    return whole.hexdigest()
