"""The knobs of a trial: their values, their names, and the YAML files that set them."""
