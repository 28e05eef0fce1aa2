"""The page in a browser, from disk: by mouse and keyboard, wide and narrow, without requests."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.process
WITHIN_S = 60


def requests(browser):
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def wide(browser, width, dark=False):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def until(browser, true):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, WITHIN_S).until(lambda _: true())


def find(browser, what):
    return browser.find_element("css selector", what)


def every(browser, what):
    return browser.find_elements("css selector", what)


def said(browser):
    return [entry["message"] for entry in browser.get_log("browser")]


def show(browser, element):
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_charts_are_drawn_and_nothing_leaves_the_file(keep, grid, page_of, watched, width, dark):
    page = page_of(keep(grid))
    wide(watched, width, dark)
    watched.get(page.as_uri())
    assert every(watched, ".sortable tbody tr")
    plots = [plot for plot in every(watched, ".plot") if plot.is_displayed()]
    assert len(plots) > 8
    for plot in plots:
        show(watched, plot)
        until(watched, lambda plot=plot: plot.find_elements("css selector", "svg, canvas"))
        drawn = plot.find_element("css selector", "svg, canvas")
        assert drawn.size["width"] > 200
        assert plot.get_attribute("aria-label")
    # A fold's charts are drawn when it opens.
    fold = find(watched, ".fold")
    assert not fold.find_elements("css selector", "svg")
    fold.find_element("css selector", "summary").click()
    until(watched, lambda: fold.find_elements("css selector", "svg"))
    assert watched.execute_script("return document.documentElement.scrollWidth") <= width
    asked = requests(watched)
    assert page.as_uri() in asked
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    assert said(watched) == []


def test_charts_of_a_grid_with_long_names_are_whole(keep, trial, page_of, watched):
    long = {
        "lora.scaling": "alpha/(2*rank)",
        "scoring.image_score": "quantile",
        "features.position": True,
        "loss.center_weight": 0.05,
        "lora.grid_size": 4,
        "training.epochs": 40,
        "training.batch_size": 16,
    }
    rates = (1e-4, 1e-3, 1e-2)
    trials = [trial(0.0, seed, also={"training.learning_rate": rate}) for rate in rates for seed in range(3)]
    trials += [trial(1.0, seed, also=long) for seed in range(3)]
    wide(watched, 1280)
    watched.get(page_of(keep(trials, baseline={})).as_uri())
    for plot in (plot for plot in every(watched, ".plot") if plot.is_displayed()):
        show(watched, plot)
        until(watched, lambda plot=plot: plot.find_elements("css selector", "svg"))
        within = "const p = arguments[0]; return p.scrollWidth <= p.clientWidth"
        assert watched.execute_script(within, plot), plot.get_attribute("aria-label")
        legends = plot.find_elements("css selector", ".role-legend-label text")
        assert not [text.text for text in legends if "…" in text.get_property("textContent")]
    assert any(
        len(text.find_elements("css selector", "tspan")) > 2 for text in every(watched, ".role-legend-label text")
    )
    assert said(watched) == []


def test_points_of_settings_without_effect_are_hollow(keep, trial, page_of, watched):
    same = {"state_digest": "one", "scores_digest": "one"}
    watched.get(page_of(keep([trial(0.0, **same), trial(1.0, **same), trial(2.0)])).as_uri())
    plot = find(watched, "#factors .plot")
    show(watched, plot)
    until(watched, lambda: plot.find_elements("css selector", "svg"))
    shapes = plot.find_elements("css selector", ".mark-symbol.role-mark path")
    outlined = [(shape.get_attribute("fill"), shape.get_attribute("stroke")) for shape in shapes]
    assert len(outlined) == 3
    hollow = [stroke for fill, stroke in outlined if fill == "transparent"]
    assert len(hollow) == 2
    assert all(stroke.startswith("#") for stroke in hollow)


def test_tables_are_sorted_by_click_and_by_keyboard(keep, grid, page_of, watched):
    from selenium.webdriver.common.keys import Keys

    watched.get(page_of(keep(grid)).as_uri())
    table = watched.find_elements("css selector", "[data-table]")[-1]

    def column(k):
        return [
            row.find_elements("css selector", "th, td")[k].text
            for row in table.find_elements("css selector", "tbody tr")
        ]

    heads = table.find_elements("css selector", "thead th")
    place = [head.text.split("\xa0")[0].strip() for head in heads].index("Mean Image AUROC")
    before = column(place)
    button = heads[place].find_element("css selector", "button")
    button.click()
    assert heads[place].get_attribute("aria-sort") == "descending"
    assert column(place) == sorted(before, reverse=True)
    button.send_keys(Keys.ENTER)
    assert heads[place].get_attribute("aria-sort") == "ascending"
    assert column(place) == sorted(before)
    heads[1].find_element("css selector", "button").send_keys(Keys.SPACE)
    assert heads[place].get_attribute("aria-sort") == "none"
    assert column(1) == sorted(column(1))


def test_a_trial_opens_and_closes_by_keyboard_and_colours_change(keep, grid, failed, page_of, watched):
    from selenium.webdriver.common.keys import Keys

    wide(watched, 1280)
    watched.get(page_of(keep([*grid, failed(gamma=4.0)])).as_uri())
    body = find(watched, "body")
    body.send_keys(Keys.TAB)
    assert watched.switch_to.active_element.text == "Skip to the tables"
    link = watched.find_elements("css selector", "[data-table] .link")[5]
    show(watched, link)
    link.send_keys(Keys.ENTER)
    dialog = find(watched, "dialog")
    until(watched, lambda: dialog.find_elements("css selector", "svg"))
    assert link.text in dialog.text
    assert "loss.focal_gamma" in dialog.text
    dialog.find_elements("css selector", "details summary")[0].click()
    until(watched, lambda: dialog.find_elements("css selector", ".numbers tbody tr"))
    watched.switch_to.active_element.send_keys(Keys.ESCAPE)
    until(watched, lambda: not dialog.is_displayed())
    broken = watched.find_elements("css selector", "[data-table] .link")[-1]
    show(watched, broken)
    broken.click()
    assert "Traceback: out of memory" in dialog.text
    dialog.find_element("css selector", "button").click()

    plot = next(plot for plot in every(watched, ".plot") if plot.is_displayed())
    show(watched, plot)
    until(watched, lambda: plot.find_elements("css selector", "svg"))

    def colours():
        ground = watched.execute_script("return getComputedStyle(document.body).backgroundColor")
        return ground, plot.find_element("css selector", "svg text").get_attribute("fill")

    light = colours()
    theme = find(watched, "#theme")
    assert theme.get_attribute("aria-pressed") == "false"
    theme.click()
    until(watched, lambda: all(a != b for a, b in zip(colours(), light, strict=True)))
    assert theme.get_attribute("aria-pressed") == "true"
    numbers = plot.find_element("xpath", "..").find_element("css selector", ".numbers")
    numbers.find_element("css selector", "summary").click()
    until(watched, lambda: len(numbers.find_elements("css selector", "tbody tr")) == 2)
    assert said(watched) == []


def test_confounds_and_settings_without_effect_show_at_the_cell(keep, trial, page_of, watched):
    same = {"state_digest": "one", "scores_digest": "one"}
    watched.get(page_of(keep([trial(0.0, **same), trial(1.0, **same), trial(2.0, torch="2.0.0")])).as_uri())
    table = find(watched, "[data-table]")
    heads = [head.text for head in table.find_elements("css selector", "thead th")]
    assert "∅ identical" in heads[1]
    assert "† torch: 2.0.0" in heads[3]
    first = table.find_element("css selector", "tbody tr").find_elements("css selector", "td")
    assert [cell.text[-1] for cell in first] == ["∅", "∅", "†"]


def test_what_comes_from_results_is_not_run(keep, trial, failed, page_of, watched):
    hostile = "</script><script>window.taken = 1</script><img src=x onerror='window.taken = 1'>"
    place = keep(
        [trial(also={"loss.focal_form": hostile}), trial(1.0), failed(hostile, gamma=3.0)], title=hostile, baseline={}
    )
    watched.get(page_of(place).as_uri())
    assert find(watched, "h1").text == " ".join(hostile.split())
    for link in every(watched, "[data-table] .link"):
        show(watched, link)
        link.click()
        find(watched, "dialog header button").click()
    for plot in every(watched, ".plot"):
        show(watched, plot)
    # Not even a script that somebody puts into the open page runs, nor does it reach an address.
    watched.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.taken = 2'; document.body.append(s);"
    )
    assert watched.execute_script("return window.taken") is None
    blocked = "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), () => done('blocked'))"
    assert watched.execute_async_script(blocked) == "blocked"
    assert any("Content Security Policy" in line for line in said(watched))


def test_the_gallery_shows_image_mask_and_map(finished, page_of, watched):
    wide(watched, 390)
    watched.get(page_of(finished / "results" / "small").as_uri())
    until(watched, lambda: every(watched, "#gallery .maps figure"))
    figure = find(watched, "#gallery .maps figure")
    show(watched, figure)
    pictures = figure.find_elements("css selector", "img")
    assert len(pictures) == 2
    until(watched, lambda: all(watched.execute_script("return arguments[0].naturalWidth", p) > 8 for p in pictures))
    tones = "const c = arguments[0]; return new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    canvas = figure.find_element("css selector", "canvas")
    until(watched, lambda: watched.execute_script(tones, canvas) > 8)
    assert "score" in figure.text
    closed = every(watched, "#gallery details")[1]
    assert not closed.find_elements("css selector", "figure")
    show(watched, closed)
    closed.find_element("css selector", "summary").click()
    until(watched, lambda: closed.find_elements("css selector", "figure"))
    assert watched.execute_script("return document.documentElement.scrollWidth") <= 390
    assert said(watched) == []


def test_a_table_wider_than_the_window_keeps_its_names_and_says_that_there_is_more(keep, trial, page_of, watched):
    wide(watched, 390)
    watched.get(page_of(keep([trial(float(gamma), seed) for gamma in range(6) for seed in range(3)])).as_uri())
    scroll = find(watched, "#tables .scroll")
    name = scroll.find_element("css selector", "tbody th")
    frame = watched.execute_script("return arguments[0].parentElement", scroll)
    hint = watched.execute_script("return arguments[0].nextElementSibling", frame)
    show(watched, scroll)
    until(watched, hint.is_displayed)
    left = name.rect["x"]
    watched.execute_script("arguments[0].scrollLeft = arguments[0].scrollWidth", scroll)
    until(watched, lambda: not hint.is_displayed())
    assert name.rect["x"] == left  # It stays in sight.
    assert "more-left" in frame.get_attribute("class")
    assert said(watched) == []
