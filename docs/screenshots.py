"""Screenshots of the top of a report page: wide, light and dark, and as narrow as a phone.

    python docs/screenshots.py results/v7_gamma/report.html docs

It writes report.png, report-dark.png and report-phone.png. It needs Chromium and its driver:
`apt-get install chromium chromium-driver`. The browser opens the file from disk.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHOTS = {
    "report": (1280, 1000, "light"),
    "report-dark": (1280, 1000, "dark"),
    "report-phone": (390, 1400, "light"),
}
"""{name of the file: width and height in CSS pixels, colours}."""
SCALE = {1280: 1, 390: 2}
"""Pixels of the picture for each CSS pixel, by width."""
WAIT_S = 30


@contextmanager
def opened_browser() -> Iterator[Any]:
    """A headless Chromium with an empty profile.

    Raises:
        SystemExit: there is no Chromium.
    """
    from selenium import webdriver

    program, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not service:
        raise SystemExit("screenshots: no chromium or chromedriver: apt-get install chromium chromium-driver")
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for word in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars", f"user-data-dir={profile}"):
            options.add_argument(f"--{word}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
        try:
            yield driver
        finally:
            driver.quit()


def screenshot(driver: Any, page: Path, path: Path, size: tuple[int, int], colours: str, scroll: int = 0) -> None:
    """Write a picture of a page.

    Args:
        driver: the browser.
        page: the page's file.
        path: the PNG file.
        size: width and height in CSS pixels.
        colours: light | dark.
        scroll: CSS pixels from the top of the page.
    """
    from selenium.webdriver.support.ui import WebDriverWait

    width, height = size
    metrics = {
        "width": width,
        "height": height,
        "deviceScaleFactor": SCALE.get(width, 1),
        "mobile": width < 600,
    }
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": colours}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(page.resolve().as_uri())
    driver.execute_script("window.scrollTo(0, arguments[0])", scroll)
    # Charts near the window are drawn as they come into sight.
    in_sight = (
        "return [...document.querySelectorAll('.plot')].every(plot => plot.classList.contains('drawn') ||"
        " plot.getBoundingClientRect().top > innerHeight || plot.getBoundingClientRect().bottom < 0)"
    )
    WebDriverWait(driver, WAIT_S).until(lambda one: one.execute_script(in_sight))
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description="Screenshots of a report page.")
    parser.add_argument("page", type=Path, help="report.html")
    parser.add_argument("folder", type=Path, help="the folder to write into")
    given = parser.parse_args()
    with opened_browser() as driver:
        for name, (width, height, colours) in SHOTS.items():
            screenshot(driver, given.page, given.folder / f"{name}.png", (width, height), colours)


if __name__ == "__main__":
    main()
