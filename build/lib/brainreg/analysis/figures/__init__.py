"""Figures for papers and notebooks: a frame in, a matplotlib figure out."""
