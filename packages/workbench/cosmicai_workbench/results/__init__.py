"""Run folders: read, compared, exported."""
