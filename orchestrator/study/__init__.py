"""Optuna's part: what it is asked, what it is told, where it keeps that, and how a search runs and ends."""
