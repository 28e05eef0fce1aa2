"""The trainable parts of the detector, one per file."""
