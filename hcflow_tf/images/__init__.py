"""Pictures as people have them: reading, writing, batches of files."""
