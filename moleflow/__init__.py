"""MoLE-Flow: continual visual anomaly detection with a frozen backbone, a normalizing flow and LoRA experts.

This package is the detector. It knows nothing of sweeps, schedulers or result files.
"""
