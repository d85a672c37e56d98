"""Image in, image out: tiling, alpha and 16 bit, runtimes."""
