"""Pixel-similarity regularization of image classifiers, and the search for its settings.

A convolutional network is trained with cross-entropy plus alpha times a loss that pulls the similarities of its
representations toward the thresholded similarities of the images' pixels (arXiv 2410.03952). Everything but
`brainreg.search` and `brainreg.confirmation` is a plain PyTorch library, without Ray.

The names of `__all__` are the public interface; each is imported when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Where each public name lives.
_PUBLIC = {
    "pixel_similarity": "method.similarity",
    "select_pairs": "method.pairs",
    "PairSampler": "method.sampler",
    "similarity_loss": "method.loss",
    "build_model": "models.build",
    "as_logits": "models.logits",
    "Hyperparameters": "hyperparameters",
    "load_training_data": "training.data",
    "train": "training.loop",
    "load_classifier": "training.checkpoint",
    "load_exported": "training.export",
    "robust_accuracy": "evaluation.accuracy",
    "Evaluation": "evaluation.settings",
    "evaluate": "evaluation.robustness",
    "load_results": "records.results",
    "rank_trials": "records.results",
    "load_searches": "records.searches",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
