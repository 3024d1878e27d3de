"""One training run: its data, the loop, its checkpoints and its device.

Nothing here knows evaluations or searches.
"""
