"""Backends: each runs the trials of a source inline, in local processes, on SLURM or on Ray."""
