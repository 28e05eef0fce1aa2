"""The sweep from Python: run it, read its results, score images with what it trained.

    from orchestrator.api import load_detector, load_results, run_sweep

docs/python.md shows it on an example.
"""

from orchestrator.api.detector import load_detector
from orchestrator.api.results import SweepComparison, SweepResults, VariantDifference, VariantSummary, load_results
from orchestrator.api.run import run_sweep

__all__ = [
    "SweepComparison",
    "SweepResults",
    "VariantDifference",
    "VariantSummary",
    "load_detector",
    "load_results",
    "run_sweep",
]
