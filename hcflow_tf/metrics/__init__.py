"""Image quality measures, one per file."""
