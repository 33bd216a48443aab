"""Taking a scene away: one file format, one file."""
