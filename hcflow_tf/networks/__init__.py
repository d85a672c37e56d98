"""Keras layers that own the weights."""
