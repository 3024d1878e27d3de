"""How accurate and how robust a network is: clean, under noise, corruptions and attacks.

Intervals, signs that a number is wrong, and the page that shows it.
"""

import lazy_loader

# What is imported from where, each when it is first used, is in `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
