"""The command line: one function for each command, one file for each group of commands."""

from orchestrator.cli.entry import main

__all__ = ["main"]
