"""The state of a sweep while it runs and afterwards: progress, time left, status, logs."""
