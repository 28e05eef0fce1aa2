"""Ray's dashboard, over HTTP and in a browser: the trials by name, for those with the token."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.ray
NAME = "v7 focal_gamma=0 seed=0"
PROGRESS = f"{NAME} [1/2 bolt "
WITHIN_S = 60


def token():
    """The token that the page asks for, as `ray get-auth-token` prints it."""
    return (Path.home() / ".ray" / "auth_token").read_text().strip()


def asked(url, token=None):
    """The JSON at a path of the dashboard, or the code of the refusal."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code


def test_trials_are_found_by_name_with_their_last_metric_and_only_with_the_token(
    place, features, on_ray, wait_until, monkeypatch
):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    said, names, refusals = [], set(), set()

    def progress_is_seen():
        found = asked(f"{said[0].removeprefix('dashboard: ')}/api/v0/tasks?limit=1000&detail=1", token())
        names.update(task["name"] for task in found["data"]["result"]["result"])
        return any(name.startswith(PROGRESS) for name in names)

    def listen(event):
        if (
            event.kind == "task" and not refusals
        ):  # The first task of the first trial; the dashboard hears of it a little later.
            refusals.add(asked(f"{said[0].removeprefix('dashboard: ')}/api/v0/tasks"))
            wait_until(progress_is_seen)

    tally = on_ray(listen, dashboard=True, say=said.append)
    assert len(tally.finished) == 4
    assert said[0].startswith("dashboard: http://127.0.0.1:")
    assert refusals == {401}
    assert NAME in names
    assert any(name.startswith(PROGRESS) for name in names), names


def test_a_browser_shows_a_trial_by_its_name_once_it_has_the_token(
    place, features, on_ray, browser, tmp_path, monkeypatch
):
    from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    said, asked_for, shown = [], [], {}
    redrawn = (ElementClickInterceptedException, StaleElementReferenceException)

    def on(kind, what, do):
        """Do something to the first visible element of a page that is redrawn every few seconds."""

        def attempt(page):
            seen = [element for element in page.find_elements(kind, what) if element.is_displayed()]
            return [do(seen[0])] if seen else False

        return WebDriverWait(browser, WITHIN_S, ignored_exceptions=redrawn).until(attempt)[0]

    def listen(event):
        if event.kind != "task" or shown:
            return
        browser.get(said[0].removeprefix("dashboard: "))
        asked_for.append(on("css selector", "[role=dialog]", lambda dialog: dialog.text))
        on("css selector", "[role=dialog] input", lambda box: box.send_keys(token() + "\n"))
        on("link text", "Jobs", lambda link: link.click())
        on("css selector", "a[href*='/jobs/0']", lambda link: link.click())
        on("xpath", "//*[text()='Task Table']", lambda title: title.click())
        on("xpath", "//label[text()='Name']/..//input", lambda box: box.send_keys(PROGRESS))
        shown["row"] = on("xpath", f"//tr[contains(., '{PROGRESS}')]", lambda row: row.text)
        shown["page"] = browser.save_screenshot(str(tmp_path / "page.png"))
        on("xpath", f"//tr[contains(., '{PROGRESS}')]", lambda row: row.screenshot(str(tmp_path / "row.png")))

    tally = on_ray(listen, dashboard=True, say=said.append)
    assert len(tally.finished) == 4
    assert "Authentication Token Required" in asked_for[0]
    assert PROGRESS in " ".join(shown["row"].split())
    for picture in ("page.png", "row.png"):
        levels = np.unique(np.asarray(Image.open(tmp_path / picture).convert("L")))
        assert len(levels) > 20, f"{picture} is blank"
