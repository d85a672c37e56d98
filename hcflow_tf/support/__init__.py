"""Files, errors, quiet start, command frame."""
