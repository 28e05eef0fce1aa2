"""The report page: one HTML file of a sweep that needs no network."""
