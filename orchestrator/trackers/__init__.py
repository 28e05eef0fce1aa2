"""Trials as runs of experiment trackers, written by the trackers' own clients without a network."""
