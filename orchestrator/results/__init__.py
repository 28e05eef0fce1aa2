"""The results of a sweep: four Parquet tables with explicit schemas, and maps."""
