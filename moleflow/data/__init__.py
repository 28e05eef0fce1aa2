"""Images: the MVTec AD layout, and the embedded data set."""
