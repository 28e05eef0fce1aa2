"""Exit codes of the command line."""

from __future__ import annotations

FAILED = 1
"""Something that was asked for did not come about: a trial failed, a report differs."""
INVALID = 2
"""The user's mistake; nothing was written."""
INTERRUPTED = 130
"""Ctrl-C or SIGTERM."""
