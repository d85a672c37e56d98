"""One file per system: its whole architecture, from config to bijector, and what is derived from it."""
