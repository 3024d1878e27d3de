"""Data sets: which there are, where their files lie, how they are decoded, cached, split and augmented.

Nothing here knows networks or training.
"""

from brainreg.data.datasets import DATASETS, Dataset, find_dataset
from brainreg.data.load import load_dataset
from brainreg.data.splits import split_train_validation

__all__ = ["DATASETS", "Dataset", "find_dataset", "load_dataset", "split_train_validation"]
