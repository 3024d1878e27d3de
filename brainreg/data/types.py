"""Types that modules of data sets share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from PIL import Image

Split = Literal["train", "test"]
Purpose = Literal["task", "regularization"]
View = Callable[["Image.Image"], "Image.Image"]

# Of images (n, c, h, w), or of those that stay in files, a list of (c, h, w).
Augmentation = Callable[[Any, "torch.Generator"], "torch.Tensor"]
