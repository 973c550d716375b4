"""Results and where they are written: the log folder, its overview and run.json."""
