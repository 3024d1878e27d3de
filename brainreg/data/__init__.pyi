from .datasets import DATASETS as DATASETS
from .datasets import Dataset as Dataset
from .datasets import find_dataset as find_dataset
from .load import load_dataset as load_dataset
from .splits import split_train_validation as split_train_validation
