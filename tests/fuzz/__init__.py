"""Inputs that lie: seeded generators (images, configs, weights) and the harness that runs the commands on them."""
