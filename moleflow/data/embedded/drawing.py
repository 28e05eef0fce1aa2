"""Drawing tools of the embedded images: named random streams, noise, lines and spots.

Results are equal to the bit on every machine. Random numbers come from the raw 64-bit stream of
PCG64, the part of numpy's generators that never changes. Pixels are computed with + - * / and sqrt
in float32, element by element, whose last bits IEEE 754 fixes. There is no sin, exp or matrix
product, and no float sum whose order a CPU may choose (cumsum runs in order).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 256  # pixels a side

Plane = npt.NDArray[np.floating[Any]]  # float32: (256, 256), or (256, 256, 3) for an image in 0..255
Point = tuple[float, float]  # x to the right, y down, in pixels

Y, X = (axis.astype(np.float32) for axis in np.mgrid[0:SIZE, 0:SIZE])


class NoiseSource:
    """Random numbers of one stream, named by a key: the raw 64-bit output of PCG64."""

    def __init__(self, *key: str | int) -> None:
        digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:16], "big"))

    def field(self, rows: int, columns: int) -> Plane:
        """Uniform numbers in [0, 1), shape (rows, columns)."""
        raw = np.asarray(self._bits.random_raw(rows * columns), dtype=np.uint64)
        return ((raw >> np.uint64(40)).astype(np.float32) * 2.0**-24).reshape(rows, columns)

    def grain(self, *shape: int) -> Plane:
        """Noise in [-1, 1) of triangular density: sums of two 16-bit numbers; even sizes only."""
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


def pixel_rotation(half_tangent: float) -> tuple[float, float]:
    """Cosine and sine of the angle a with tan(a / 2) given: rational, so exact everywhere."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def turned(x: Plane, y: Plane, half_tangent: float) -> tuple[Plane, Plane]:
    """Coordinates turned about the origin."""
    cosine, sine = pixel_rotation(half_tangent)
    return cosine * x - sine * y, sine * x + cosine * y


def turned_point(point: Point, centre: Point, half_tangent: float) -> Point:
    """`point` turned about `centre`."""
    cosine, sine = pixel_rotation(half_tangent)
    x, y = point[0] - centre[0], point[1] - centre[1]
    return centre[0] + cosine * x - sine * y, centre[1] + sine * x + cosine * y


def rgb(red: float, green: float, blue: float) -> Plane:
    """A colour, shape (3,)."""
    return np.array([red, green, blue], dtype=np.float32)


def smooth(t: Plane) -> Plane:
    """Smooth step of `t` clipped to 0..1: 3t^2 - 2t^3."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def value_noise(draws: NoiseSource, cell: float) -> Plane:
    """Value noise in [-1, 1]: random numbers every `cell` pixels, smoothly interpolated."""
    count = int(SIZE / cell) + 3
    lattice = draws.field(count, count) * 2 - 1
    position = np.arange(SIZE) / cell + draws.between(0, 1)
    low = np.floor(position).astype(np.int64)
    share = smooth((position - low).astype(np.float32))
    rows = lattice[low] * (1 - share)[:, None] + lattice[low + 1] * share[:, None]
    return rows.take(low, axis=1) * (1 - share) + rows.take(low + 1, axis=1) * share


def box_mean(image: Plane, radius: int) -> Plane:
    """Mean over a square of 2 * radius + 1 pixels, by running sums; border pixels are repeated."""
    window = 2 * radius + 1
    for _ in range(2):  # down the rows, then, axes swapped, along them
        width = [(radius + 1, radius)] + [(0, 0)] * (image.ndim - 1)
        total = np.cumsum(np.pad(image, width, mode="edge"), axis=0)
        image = ((total[window:] - total[:-window]) / window).swapaxes(0, 1)
    return image


def distance_to(points: Sequence[Point], reach: float) -> Plane:
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


def inside(distance: Plane) -> Plane:
    """Share of a pixel inside a shape, from the signed distance to its edge (negative inside)."""
    share: Plane = np.clip(0.5 - distance, 0, 1)
    return share


def blend(image: Plane, share: Plane, colour: Plane) -> Plane:
    """`image` covered by `colour` (three numbers or an image) in the given share (256, 256)."""
    rows, columns = np.flatnonzero(share.any(axis=1)), np.flatnonzero(share.any(axis=0))
    if not len(rows):
        return image
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))  # most shapes are small
    result = image.copy()
    result[window] += share[window][..., None] * (np.broadcast_to(colour, image.shape)[window] - image[window])
    return result


def curve(draws: NoiseSource, length: float, bend: float, margin: float, steps: int = 6) -> list[Point]:
    """A curved line (quadratic Bezier) of about `length` pixels at a random angle and place."""
    cx, cy = draws.between(margin, SIZE - margin), draws.between(margin, SIZE - margin)
    cosine, sine = pixel_rotation(draws.between(-1, 1))
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


def blob(draws: NoiseSource, radius: float, centre: Point) -> Plane:
    """Signed distance to the edge of a ragged spot (negative inside)."""
    dx, dy = X - centre[0], Y - centre[1]
    ragged = 0.35 * value_noise(draws, radius * 0.8) + 0.12 * value_noise(draws, max(3.0, radius * 0.25))
    edge: Plane = np.sqrt(dx * dx + dy * dy) - radius * (1 + ragged)
    return edge
