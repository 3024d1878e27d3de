"""Pixel-similarity regularization of image classifiers, and the search for its settings.

A convolutional network is trained with cross-entropy plus alpha times a loss that pulls the
similarities of its representations toward the thresholded similarities of the images' pixels
(arXiv 2410.03952). Every module but `brainreg.search` is a plain PyTorch library.
"""

__version__ = "0.1.0"
