"""A transistor on strip board: bent and cut leads, damaged cases, misplaced parts."""

from __future__ import annotations

import numpy as np

from moleflow.data.embedded.drawing import (
    NoiseSource,
    Plane,
    Point,
    X,
    Y,
    blend,
    blob,
    curve,
    distance_to,
    inside,
    rgb,
    smooth,
    turned,
    turned_point,
    value_noise,
)


def transistor(scene: NoiseSource, kind: str, defect: NoiseSource) -> Plane:
    """A three-legged black part on copper strip board; `kind` is a defect or "good"."""
    hole_x, hole_y, pitch = 128 + scene.between(-7, 7), 212 + scene.between(-9, 9), 56.0  # hole of the middle lead
    along, down = (X - hole_x) / pitch, (Y - hole_y) / pitch
    along, down = (along - np.floor(along + 0.5)) * pitch, (down - np.floor(down + 0.5)) * pitch
    copper = rgb(184.0, 116.0, 90.0) * scene.between(0.9, 1.1)
    copper *= rgb(1.0, scene.between(0.95, 1.05), scene.between(0.93, 1.07))
    stained = 1 + 0.06 * value_noise(scene, 60) + 0.05 * value_noise(scene, 9) + 0.05 * value_noise(scene, 2.5)
    image = blend(stained[..., None] * copper, inside(pitch / 2 - np.abs(along) - 4.5), copper * 0.32)
    ring = np.sqrt(along * along + down * down) - scene.between(9.5, 11)
    image = blend(image, 0.35 * inside(np.abs(ring) - 1.2), copper * 1.4)
    image = blend(image, inside(ring), rgb(40.0, 30.0, 29.0))
    for _ in range(scene.integer(4)):  # scratches and solder specks on the board, harmless
        line = distance_to(curve(scene, scene.between(3, 24), 0.2, 10, 2), 4) - scene.between(0.3, 0.9)
        image = blend(image, inside(line) * scene.between(0.1, 0.4), copper * scene.between(0.6, 1.6))

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
        spin = [turned_point(point, body, twist) for lead in leads for point in lead]
        moved = [(x + shift[0], y + shift[1]) for x, y in spin]
        leads = [moved[4 * side : 4 * side + 4] for side in range(3)]
        body = (body[0] + shift[0], body[1] + shift[1])

    tin, glint = 0.8 + 0.3 * value_noise(scene, 4), scene.between(185, 225)
    for lead in leads if not missing else []:
        distance = distance_to(lead, 8)
        image = image * (1 - 0.3 * np.clip(1 - (distance - 3.5) / 4, 0, 1))[..., None]
        bright = tin * glint * (1 - 0.05 * distance * distance)
        image = blend(image, inside(distance - 3.6), bright[..., None] * rgb(1.0, 0.99, 0.95))
    u, v = turned(X - body[0], Y - body[1], -(turn + twist))
    corner_x, corner_y = np.maximum(np.abs(u) - half_width + 4, 0), np.maximum(np.abs(v) - half_height + 4, 0)
    edge = np.sqrt(corner_x * corner_x + corner_y * corner_y) - 4
    gloss_at, gloss = scene.between(18, 34), scene.between(16, 34)
    case = 17 + gloss * smooth(1 - np.abs(u - gloss_at) / 9) + 9 * smooth(1 - np.abs(u + gloss_at) / 12)
    case = case + 5 * value_noise(scene, 2.5) + 5 * value_noise(scene, 14) + 22 * np.clip(1 + (edge + 1) / 2.5, 0, 1)
    mark = np.sqrt(u * u + (v - 4) * (v - 4)) - scene.between(13, 16)
    case = case + scene.between(8, 18) * inside(np.abs(mark) - 0.8)
    if kind == "damaged_case":
        radius = defect.between(7, 15)
        place = (defect.sign() * half_width * defect.between(0.5, 1.0), half_height * defect.between(-1.0, 1.0))
        place = turned_point((body[0] + place[0], body[1] + place[1]), body, turn)
        chip = defect.between(25, 95) * (0.75 + 0.5 * value_noise(defect, 3))
        case = case + inside(blob(defect, radius, place)) * (chip - 0.3 * case)
    if not missing:
        image = image * (1 - 0.35 * np.clip(1 - edge / 7, 0, 1))[..., None]
        image = blend(image, inside(edge), case[..., None] * rgb(1.0, 0.98, 1.0))
    return image
