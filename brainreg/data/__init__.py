"""Data sets: which there are, where their files lie, how they are decoded, cached, split and augmented.

Nothing here builds a network or trains one.
"""

import lazy_loader

# What is imported from where, each when it is first used, is in `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
