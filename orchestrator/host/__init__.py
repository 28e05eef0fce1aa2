"""This machine: hardware, disks, environment, the cache folder, the hub, and provenance."""
