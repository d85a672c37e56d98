"""One file per way to run a model, its writer beside its reader."""
