"""The anomaly maps on a page: defective images that score low, normal images that score high."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.html_report.best_and_worst import ExtremeTrial, extreme_trials
from orchestrator.html_report.page_data import PageData
from orchestrator.reports.number_format import grouped

REASONS = {
    "lowest_anomalous": "Defective images with the lowest scores: missed first",
    "highest_normal": "Normal images with the highest scores: false alarms first",
}
MOST_PER_REASON = 12
MOST_MAPS = 480
"""Maps on a page; more would make its file too large to send."""
NO_MAPS = (
    "This folder keeps no anomaly maps of the best and the worst trials, because an earlier version of the program made "
    "its results. New trials keep some maps of each class."
)


def anomaly_map_gallery(page: PageData) -> tuple[dict[str, object], str]:
    """Choose the anomaly maps of the best and the worst trials.

    Returns:
        The galleries as the page's script draws them, with the images that all trials share by
        their digests, and a text that says which maps were chosen.

    """
    extremes = extreme_trials(page)
    maps = page.store.maps([one.trial.trial_id for one in extremes])
    rows = grouped((row["trial_id"], row) for row in maps if row["split"] == page.lock.recipe.split)
    with_maps = [one for one in extremes if one.trial.trial_id in rows]
    if not with_maps:
        return {"galleries": [], "thumbnails": {}, "masks": {}}, NO_MAPS
    # Each trial gets the same number of maps, at least one of each kind.
    limit = max(1, min(MOST_PER_REASON, MOST_MAPS // (len(REASONS) * len(with_maps))))
    thumbnails: dict[str, str] = {}
    masks: dict[str, str] = {}
    galleries = []
    for one in with_maps:
        ranked = sorted(rows[one.trial.trial_id], key=lambda row: (row["rank"], row["task"]))
        by_reason = {reason: [row for row in ranked if row["why"] == reason][:limit] for reason in REASONS}
        for row in (row for of_reason in by_reason.values() for row in of_reason):
            thumbnails.setdefault(row["image_digest"], _base64(row["picture"]))
            if row["mask"] is not None:
                masks.setdefault(row["image_digest"], _base64(row["mask"]))
        galleries.append(_gallery(one, page, by_reason))
    lacking = len(extremes) - len(with_maps)
    note = (
        "A trial keeps the defective images of each class that score lowest and the normal images that score highest; "
        "they are shown here. It also keeps two random images of each class in `maps/`. A gallery shows at most "
        f"{limit} images of each kind: the worst of every class, then the second worst, and so on. Lighter colours are "
        "more anomalous. They run from the lowest to the highest value of one class in one trial, so that colours of "
        "two classes or trials cannot be compared. The bounds are in nats per patch."
    ) + f" {lacking} of {len(extremes)} such trials keep no maps." * (lacking > 0)
    return {"galleries": galleries, "thumbnails": thumbnails, "masks": masks}, note


def _gallery(one: ExtremeTrial, page: PageData, by_reason: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, object]:
    return {
        "title": one.role,
        "trial": one.trial.trial_id,
        "variant": page.variants[one.variant].label,
        "seed": one.trial.seed,
        "groups": [
            {"title": title, "maps": [_map(row) for row in by_reason[reason]]}
            for reason, title in REASONS.items()
            if by_reason[reason]
        ],
    }


def _map(row: Mapping[str, Any]) -> dict[str, object]:
    return {
        "digest": row["image_digest"],
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
