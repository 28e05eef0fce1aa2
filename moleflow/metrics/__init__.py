"""Metrics in numpy: `ranking` (AUROC, AP, F1-max), `regions` (AUPRO), `continual` (ACC, FM, BWT).

A metric is None where its definition leaves it undefined: never NaN or zero, and no exception.
`continual_table` works on arrays and so uses NaN instead.
"""
