"""The cache on disk: claims, array packs, stages, checkpoints, patch scores, pins, eviction."""
