"""Numbers of merit, in numpy alone: `ranking` (AUROC, AP, F1-max), `regions` (AUPRO), `continual` (ACC, FM, BWT).

What a metric's definition leaves undefined is `None`: never NaN, never zero, never an exception.
"""
