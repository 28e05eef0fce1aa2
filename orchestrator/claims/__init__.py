"""The ledger: claims of the update notes, judged from stored results by rules stated beforehand."""
