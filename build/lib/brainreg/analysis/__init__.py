"""What searches found, as tables and statistics: frames in, frames out.

Nothing here draws or prints.
"""
