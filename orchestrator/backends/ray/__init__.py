"""The Ray backend: Ray Tune places the trials and shows them."""
