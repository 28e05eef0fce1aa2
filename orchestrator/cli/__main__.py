"""`python -m orchestrator.cli`, the same as `moleflow-sweep`."""

from orchestrator.cli.entry import main

main()
