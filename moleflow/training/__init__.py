"""Training of a task sequence and its evaluation."""
