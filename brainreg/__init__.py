"""Pixel-similarity regularization of image classifiers, and the search for its settings.

A convolutional network is trained with cross-entropy plus alpha times a loss that pulls the similarities of its
representations toward the thresholded similarities of the images' pixels (arXiv 2410.03952). Everything but
searches, confirmations and reproductions is a plain PyTorch library, without Ray.

The names of `__all__` are the public interface; each is imported when it is first used.
"""

import lazy_loader

__version__ = "0.1.0"

# What is imported from where, each when it is first used, is in `__init__.pyi`.
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]


def __dir__() -> list[str]:
    return __all__
