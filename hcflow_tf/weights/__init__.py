"""Model directories, shipped models, downloads, the names in released files."""
