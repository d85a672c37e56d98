"""The model section of a config, one file for each system: what it is made of, and what it can do."""
