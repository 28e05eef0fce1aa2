"""The sweep: from one YAML file to trials, attempts, Parquet results and comparison tables. It
knows nothing of tensors.
"""
