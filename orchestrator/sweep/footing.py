"""The yardstick's version name, and the settings that it shares with the variants of a sweep."""

from __future__ import annotations

YARDSTICK = "memory_bank"
"""The `version` of trials that are no version: nearest neighbours in the same features."""
FOOTING = ("data", "backbone", "scoring", "router")
"""The groups of knobs that such a trial shares with the versions that it stands next to."""
