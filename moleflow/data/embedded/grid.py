"""A grid: woven metal mesh over a dark ground; bent and broken wires, loose threads."""

from __future__ import annotations

import numpy as np

from moleflow.data.embedded.drawing import (
    NoiseSource,
    Plane,
    X,
    Y,
    blend,
    blob,
    curve,
    distance_to,
    inside,
    rgb,
    turned,
    value_noise,
)


def _wires(across: Plane, along: Plane, pitch: float, width: float) -> tuple[Plane, Plane, Plane]:
    """Wires at multiples of `pitch`: coverage, shading 0..1 and height in the weave."""
    index = np.floor(across / pitch + 0.5)
    offset = across - index * pitch
    round_ = np.clip(1 - (offset / width) * (offset / width), 0, 1)
    lit = np.sqrt(round_) * (0.75 - 0.25 * offset / width)
    position = along / pitch + index
    wave = position - 2 * np.floor(position / 2 + 0.5)  # -1 .. 1, period two crossings
    rise = 1 - 2 * wave * wave * (2 - wave * wave)  # 1 over a crossing, -1 under the next
    return inside(np.abs(offset) - width), lit, rise


def grid(scene: NoiseSource, kind: str, defect: NoiseSource) -> Plane:
    """Woven metal mesh over a dark ground; `kind` is a defect or "good"."""
    u, v = turned(X - 128, Y - 128, scene.between(-0.02, 0.02))
    pitch, width = scene.between(19.5, 21.5), scene.between(2.8, 3.5)
    sway = scene.between(0.6, 1.6)
    u = u + scene.between(0, 2) * pitch + sway * value_noise(scene, 50)
    v = v + scene.between(0, 2) * pitch + sway * value_noise(scene, 50)
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
        gap = inside(np.maximum(np.abs(u - index * pitch) - pitch / 2, np.abs(v - v[row, column]) - length))
    brightness = scene.between(140, 185)
    ground = scene.between(28, 52) + 8 * value_noise(scene, 70) + 5 * value_noise(scene, 4)
    one, one_lit, one_rise = _wires(u + moved, v, pitch, width)
    two, two_lit, two_rise = _wires(v, u, pitch, width)
    one = one * (1 - gap)
    tarnish = 1 + 0.10 * value_noise(scene, 7) + 0.08 * value_noise(scene, 30)
    one_grey = brightness * tarnish * (0.25 + 0.9 * one_lit) * (0.86 + 0.14 * one_rise)
    two_grey = brightness * tarnish * (0.22 + 0.8 * two_lit) * (0.86 - 0.14 * two_rise)
    over = one_rise > 0
    lower, upper = np.where(over, two, one), np.where(over, one, two)
    grey = ground + lower * (np.where(over, two_grey, one_grey) - ground)
    grey = grey + upper * (np.where(over, one_grey, two_grey) - grey)
    image: Plane = grey[..., None] * rgb(1.0, scene.between(0.98, 1.02), scene.between(0.96, 1.04))
    for _ in range(scene.integer(3)):  # specks of dust, harmless
        spot = inside(blob(scene, scene.between(1.0, 2.2), (scene.between(8, 248), scene.between(8, 248))))
        image = blend(image, spot * 0.4, rgb(150.0, 148.0, 140.0))
    if kind == "thread":
        width = defect.between(0.7, 1.5)
        line = inside(distance_to(curve(defect, defect.between(30, 110), 0.8, 50, 10), width + 2) - width)
        grey_level = defect.between(90, 210)
        tint = rgb(grey_level, grey_level * defect.between(0.8, 1), grey_level * defect.between(0.7, 1))
        image = blend(image, line * defect.between(0.55, 1), tint)
    return image
