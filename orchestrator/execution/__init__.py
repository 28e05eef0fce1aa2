"""Running trials: the backend protocol, the source of trials, and the worker."""
