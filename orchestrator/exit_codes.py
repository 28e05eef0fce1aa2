"""Exit codes of the command line. Success is 0."""

from __future__ import annotations

FAILED = 1
"""The command ran, but its result is bad: a trial failed, or a report differs."""
INVALID = 2
"""A user's mistake; nothing was written."""
INTERRUPTED = 130
"""Ctrl-C, SIGTERM or a closed terminal: 128 plus the number of SIGINT, as shells report it."""
