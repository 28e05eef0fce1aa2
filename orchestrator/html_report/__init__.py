"""The report page: one HTML file with the tables, charts, trials and anomaly maps of a sweep, which needs no network."""
