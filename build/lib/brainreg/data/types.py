"""Types that modules of data sets share."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from PIL import Image

Split = Literal["train", "test"]


Purpose = Literal["task", "regularization"]


View = Callable[[Image.Image], Image.Image]


Augmentation = Callable[[torch.Tensor | Sequence[torch.Tensor], torch.Generator], torch.Tensor]
