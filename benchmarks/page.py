"""The report page of a large sweep: its size, the time to make it, and how long a browser takes to
open it.

    python benchmarks/page.py [--variants 400] [--seeds 5]

The numbers of the trials are generated: nothing was trained. They are stored as those of real
trials are, and all that follows is real. The browser is headless Chromium with an empty profile; it
opens the file from disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.html_report.page import make_page
from orchestrator.records import sweep_folder
from orchestrator.reports import make
from orchestrator.results.store import ResultStore
from orchestrator.results.writer import AttemptRows, PartWriter

CLASSES = ("leather", "grid", "transistor")
EPOCHS = 10
START = datetime(2026, 1, 1, tzinfo=UTC)
REPEATS = 5


def canonical(value: object) -> str:
    """JSON as the store keeps it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def configurations(count: int) -> list[dict[str, float]]:
    """Factors of `count` variants, 2,000 at most: a grid of blocks, learning rates, ranks, gammas
    and centre weights.
    """
    grid = product(
        (4, 6, 8, 10, 12),
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        (4, 8, 16, 32, 64),
        (0.0, 1.0, 2.0, 4.0),
        (0.0, 0.01, 0.03, 0.1),
    )
    names = ("flow.blocks", "training.learning_rate", "lora.rank", "loss.focal_gamma", "loss.center_weight")
    return [dict(zip(names, values, strict=True)) for values in grid][:count]


def trial(factors: dict[str, float], seed: int, draws: np.random.Generator) -> AttemptRows:
    """One finished trial of generated numbers."""
    config: dict[str, Any] = {"version": "v7", "seed": seed, "data": {"tasks": list(CLASSES)}}
    for path, value in factors.items():
        group, name = path.split(".")
        config.setdefault(group, {})[name] = value
    own = canonical(config)
    trial_id = hashlib.sha256(own.encode()).hexdigest()[:12]
    worth = 0.8 + 0.02 * np.log10(factors["training.learning_rate"] / 1e-4) + 0.01 * np.log2(factors["lora.rank"])
    attempt = {
        "sweep": "generated",
        "trial_id": trial_id,
        "attempt": 1,
        "version": "v7",
        "seed": seed,
        "factors": canonical(factors),
        "dataset": "embedded",
        "status": "finished",
        "started_at": START,
        "ended_at": START + timedelta(minutes=1),
        "seconds_spent": float(draws.uniform(30, 300)),
        "seconds_reused": 0.0,
        "backend": "inline",
        "host": "host",
        "pid": 1,
        "worker": "w",
        "device": "cpu",
        "device_model": "generated",
        "torch": "2.13.0",
        "dtype": "float32",
        "threads": 1,
        "code_digest": "0" * 64,
        "packages": "{}",
        "config": own,
        "parameters_total": int(1e6 + 1e4 * factors["lora.rank"]),
        "flags": canonical(["generated numbers: nothing was trained"]),
        "state_digest": f"state of {own}",
        "scores_digest": f"scores of {own}",
    }
    places = [(i, j) for i in range(len(CLASSES)) for j in range(i + 1)]
    metrics = [
        {
            "split": "test",
            "after_task": i,
            "task": j,
            "task_name": CLASSES[j],
            "after_task_name": CLASSES[i],
            "n_images": 80,
            "n_anomalous": 40,
            "n_masks": 40,
            "routing_accuracy": 1.0,
            "image_auroc": float(np.clip(worth + draws.normal(0, 0.02), 0, 1)),
            "pixel_auroc": float(np.clip(worth + 0.1 + draws.normal(0, 0.01), 0, 1)),
            "state_digest": f"state {i} of {own}",
            "scores_digest": f"scores {i} {j} of {own}",
            "seconds_spent": 1.0,
            "seconds_reused": 0.0,
        }
        for i, j in places
    ]
    curves = [
        {
            "task": j,
            "task_name": name,
            "epoch": epoch,
            "loss": float(100 / epoch),
            "nll": float(100 / epoch + draws.normal()),
            "lr": 1e-3,
            "grad_norm": 1.0,
            "seconds": 1.0,
            "reused": False,
        }
        for j, name in enumerate(CLASSES)
        for epoch in range(1, EPOCHS + 1)
    ]
    return AttemptRows(attempt, metrics, (), curves)


def generate(place: Path, variants: int, seeds: int) -> None:
    """Store a finished sweep of generated numbers in `place`."""
    draws = np.random.default_rng(0)
    writer = PartWriter(ResultStore(place))
    ids = []
    for factors in configurations(variants):
        for seed in range(seeds):
            rows = trial(factors, seed, draws)
            writer.add(rows)
            ids.append(str(rows.attempt["trial_id"]))
    writer.flush()
    baseline = configurations(1)[0]
    of = sweep_folder.SweepFolder(
        "generated", "generated: numbers that no trial gave", baseline, tuple(ids), "embedded"
    )
    sweep_folder.write_sweep_folder(place, of, {})


def opening_ms(page: Path) -> list[float]:
    """Milliseconds from the start of the navigation to the end of the load event, browser by
    browser.
    """
    from selenium import webdriver

    program, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not service:
        return []
    found = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as profile:
            options = webdriver.ChromeOptions()
            options.binary_location = program
            for word in ("headless", "no-sandbox", "disable-gpu", "window-size=1280,1000", f"user-data-dir={profile}"):
                options.add_argument(f"--{word}")
            browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
            try:
                browser.get(page.as_uri())
                found.append(
                    float(browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd"))
                )
            finally:
                browser.quit()
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        generate(Path(place), given.variants, given.seeds)
        begun = time.process_time()
        made, _ = make.make_report(Path(place))
        reported = time.process_time()
        page = make_page(Path(place), made)
        ended = time.process_time()
        trials = len(made.lock.trials) if made.lock else 0
        print(f"{trials} trials of generated numbers, {given.variants} variants, {given.seeds} seeds each")
        print(
            f"report: {reported - begun:.1f} CPU s; page: {ended - reported:.1f} CPU s; {page.stat().st_size / 1e6:.2f} MB"
        )
        times = opening_ms(page)
        print(f"opened in Chromium, ms: {', '.join(f'{ms:.0f}' for ms in times) or 'no Chromium here'}")


if __name__ == "__main__":
    main()
