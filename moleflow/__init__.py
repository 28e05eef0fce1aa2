"""MoLE-Flow: continual visual anomaly detection.

A frozen backbone, a normalizing flow and LoRA experts. This package is the detector. It knows
nothing of sweeps, schedulers or result files.
"""
