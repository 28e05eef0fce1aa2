"""The trainable parts, one a file."""
