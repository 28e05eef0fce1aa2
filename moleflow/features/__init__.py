"""The frozen backbone and the cache of its features."""
