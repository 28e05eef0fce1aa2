"""A run of a sweep: checks, results folder, backend, outcome and report."""
