"""Attacks, noise and corruptions, by name: each a module, a subclass of `base.Attack`.

Models take images in [0, 1], scale them themselves, and return logits.
"""

import lazy_loader

# What is imported from where, each when it is first used, is in `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
