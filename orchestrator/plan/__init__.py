"""Planning: the inputs of a sweep, the trials to run, the stages they share and their cost."""
