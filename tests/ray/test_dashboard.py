"""What the dashboard serves, over the HTTP API that its page draws from: trials by name and how far they are, for those with the token."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray


def asked(url, token=None):
    """The JSON at a path of the dashboard, or the code of the refusal."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_trials_are_found_by_name_with_their_last_metric_and_only_with_the_token(place, features, on_ray, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    said, names, refusals = [], set(), set()

    def listen(event):
        if event.kind not in ("task", "finished"):
            return
        at = said[0].removeprefix("dashboard: ") + "/api/v0/tasks?limit=1000&detail=1"
        refusals.add(asked(at))
        found = asked(at, (Path.home() / ".ray" / "auth_token").read_text().strip())
        names.update(task["name"] for task in found["data"]["result"]["result"])

    tally = on_ray(listen, dashboard=True, say=said.append)
    assert len(tally.finished) == 4
    assert said[0].startswith("dashboard: http://127.0.0.1:")
    assert refusals == {401}
    assert "v7 focal_gamma=0 seed=0" in names
    assert any(name.startswith("v7 focal_gamma=0 seed=0 [1/2 bolt ") for name in names), names
