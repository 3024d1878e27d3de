"""Data sets: which there are, where their files lie, how they are decoded, cached, split and augmented.

Nothing here knows networks or training.
"""
