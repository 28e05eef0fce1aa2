"""Anomaly maps of the trials that are looked at closely: defective images that score low, normal ones that score high."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.html_report.best_and_worst import Extreme, extremes
from orchestrator.html_report.page_data import PageData

REASONS = {
    "lowest_anomalous": "Defective images with the lowest scores: missed first",
    "highest_normal": "Normal images with the highest scores: false alarms first",
}
MOST_PER_REASON = 12
MOST_MAPS = 480
"""Maps on a page, so that it stays a file that can be sent round."""
NO_MAPS = (
    "No anomaly maps are kept in this folder for the best and the worst trials: results of an earlier version of the program have none. "
    "Trials that run from now on keep a few of each class."
)


@dataclass(frozen=True)
class Gallery:
    """The galleries as the page's script draws them.

    Args:
        shows: one for each trial: its title, its trial, and its maps by reason.
        pictures: small JPEGs by image, base64; one for all trials.
        masks: 1-bit PNGs by image.
        note: what was chosen, and what was left out.

    """

    shows: tuple[dict[str, object], ...]
    pictures: Mapping[str, str]
    masks: Mapping[str, str]
    note: str


def gallery(evidence: PageData) -> Gallery:
    """The galleries of the best and the worst trial of each variant, or of the sweep; none where no map is kept."""
    looked_at = extremes(evidence)
    rows: dict[str, list[dict[str, Any]]] = {}
    split = evidence.lock.recipe.split
    for row in evidence.store.maps([one.trial.trial_id for one in looked_at]):
        if row["split"] == split:
            rows.setdefault(row["trial_id"], []).append(row)
    with_maps = [one for one in looked_at if one.trial.trial_id in rows]
    if not with_maps:
        return Gallery((), {}, {}, NO_MAPS)
    each = max(1, min(MOST_PER_REASON, MOST_MAPS // (len(REASONS) * len(with_maps))))
    pictures: dict[str, str] = {}
    masks: dict[str, str] = {}
    shows = []
    for one in with_maps:
        chosen = {reason: _first(rows[one.trial.trial_id], reason, each) for reason in REASONS}
        for row in (row for of in chosen.values() for row in of):
            pictures.setdefault(row["image_digest"], _base64(row["picture"]))
            if row["mask"] is not None:
                masks.setdefault(row["image_digest"], _base64(row["mask"]))
        shows.append(_show(one, evidence, chosen))
    lacking = len(looked_at) - len(with_maps)
    note = (
        "Of each class a trial keeps the defective images that score lowest and the normal ones that score highest, which are here, and "
        f"two images by lot, which lie in `maps/`. At most {each} of each kind a trial: of every class the worst first, then the next "
        "worst. The colours run from the lowest to the highest value of a class in a trial, lighter for more anomalous, so they can be "
        "compared within it and not between classes or trials; the bounds stand in nats a patch."
    ) + f" {lacking} of {len(looked_at)} such trials keep no maps." * (lacking > 0)
    return Gallery(tuple(shows), pictures, masks, note)


def _first(rows: Sequence[dict[str, Any]], reason: str, most: int) -> list[dict[str, Any]]:
    return sorted((row for row in rows if row["why"] == reason), key=lambda row: (row["rank"], row["task"]))[:most]


def _show(one: Extreme, evidence: PageData, chosen: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, object]:
    return {
        "title": one.role,
        "trial": one.trial.trial_id,
        "variant": evidence.variants[one.place].label,
        "seed": one.trial.seed,
        "groups": [
            {"title": title, "maps": [_map(row) for row in chosen[reason]]}
            for reason, title in REASONS.items()
            if chosen[reason]
        ],
    }


def _map(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "of": row["image_digest"],
        "image": row["image"],
        "class": row["task_name"],
        "defect": row["defect"],
        "score": f"{row['score']:#.4g}",
        "low": f"{row['map_low']:.3g}",
        "high": f"{row['map_high']:.3g}",
        "map": _base64(row["map"]),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
