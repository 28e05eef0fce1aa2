"""Leather: pebbled, brown, under slanting light; cuts, folds, glue and stains."""

from __future__ import annotations

import numpy as np

from moleflow.data.embedded.drawing import (
    NoiseSource,
    Plane,
    X,
    Y,
    blend,
    blob,
    box_mean,
    curve,
    distance_to,
    inside,
    rgb,
    smooth,
    turned,
    value_noise,
)


def _pebbles(draws: NoiseSource, u: Plane, v: Plane) -> Plane:
    """Grain height 0..1: gap between the nearest two of scattered points (Worley noise)."""
    jitter_x, jitter_y = 0.15 + 0.7 * draws.field(64, 64), 0.15 + 0.7 * draws.field(64, 64)
    left, top = np.floor(u), np.floor(v)
    column, row, u, v = left.astype(np.int64), top.astype(np.int64), u - left, v - top
    first, second = np.full_like(u, 9), np.full_like(u, 9)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            cell = ((row + dy) & 63) * 64 + ((column + dx) & 63)
            x, y = jitter_x.take(cell) + dx - u, jitter_y.take(cell) + dy - v
            square = x * x + y * y
            second = np.minimum(second, np.maximum(first, square))
            first = np.minimum(first, square)
    height: Plane = np.clip((np.sqrt(second) - np.sqrt(first)) * 2.2, 0, 1)
    return height


def leather(scene: NoiseSource, kind: str, defect: NoiseSource) -> Plane:
    """Brown pebbled leather under slanting light; `kind` is a defect or "good"."""
    u, v = turned(X, Y, scene.between(-1, 1))
    pitch = scene.between(8.5, 11.5)
    warp = 0.35 * value_noise(scene, 40)
    grain = _pebbles(scene, u / pitch + warp, v / (pitch * scene.between(0.85, 1.2)) - warp)
    height = box_mean(grain, 1) * scene.between(0.8, 1.2) + 0.25 * value_noise(scene, 5) + 0.6 * value_noise(scene, 24)
    slope_x, slope_y = np.diff(height, axis=1, prepend=height[:, :1]), np.diff(height, axis=0, prepend=height[:1])
    relief = scene.between(0.25, 0.45) * (slope_x + slope_y * scene.between(0.3, 1.2))
    shade = 0.82 + 0.18 * grain + relief + scene.between(0.02, 0.06) * value_noise(scene, 60)
    colour = rgb(122.0, 74.0, 47.0) * scene.between(0.88, 1.12)
    colour *= rgb(1.0, scene.between(0.96, 1.04), scene.between(0.94, 1.06))
    image: Plane = shade[..., None] * colour
    for _ in range(scene.integer(3)):  # pores and old scars: harmless, but hard to tell from a defect
        spot = inside(blob(scene, scene.between(1.5, 4.0), (scene.between(8, 248), scene.between(8, 248))))
        image = blend(image, spot * scene.between(0.15, 0.4), colour * 0.45)
    if kind == "cut":
        width = defect.between(0.7, 1.8)
        distance = distance_to(curve(defect, defect.between(24, 90), 0.25, 40), width + 3) - width
        lip = inside(np.abs(distance - 1.5) - 0.8) * defect.between(0.1, 0.35)
        image = blend(image, lip, colour * 1.5)
        image = blend(image, inside(distance) * defect.between(0.3, 0.85), colour * 0.3)
    elif kind == "fold":
        width = defect.between(5, 11)  # a dark crease between two raised, brighter flanks
        across = distance_to(curve(defect, defect.between(70, 240), 0.15, 60, 10), width) / width
        crease, flank = smooth(1 - across * 2.2), smooth(1 - np.abs(across - 0.55) / 0.45)
        image = image * (1 + defect.between(0.12, 0.4) * (0.6 * flank - crease))[..., None]
    elif kind in ("glue", "stain"):
        radius = defect.between(7, 22)
        share = inside(blob(defect, radius, (defect.between(30, 226), defect.between(30, 226))) * 0.5)
        if kind == "glue":
            image = blend(image, share * defect.between(0.35, 0.9), box_mean(image, 3) * 1.04 + defect.between(4, 26))
        else:
            tint = rgb(defect.between(0.3, 0.9), defect.between(0.3, 0.9), defect.between(0.4, 1.1))
            image = blend(image, share * defect.between(0.25, 0.6), image * tint)
    return image
