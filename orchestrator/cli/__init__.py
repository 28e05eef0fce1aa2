"""The command line: arguments in, one call out."""

from orchestrator.cli.entry import main

__all__ = ["main"]
