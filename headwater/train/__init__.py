"""Settings -> run folder: the loop, its state on disk, its schedule."""
