"""What a network must give to be regularized: logits, and the similarity of two batches of images."""

from collections.abc import Iterable

import torch
from torch import nn

# How much of a running channel mean one pair of batches replaces.
_MEAN_MOMENTUM = 0.1

# What is divided by at least, where all maps are their means.
_SHORTEST = 1e-8


class SimilarityNetwork(nn.Module):
    """A classifier of scaled images, which also compares images by its own representations.

    A subclass computes logits in `forward`, and feature maps in `features`; it calls `_compare_by` with the
    channels of the maps.

    Source: Li et al., arXiv 1911.05072, equation 3 (similarity).
    """

    def _compare_by(self, widths: list[int]) -> None:
        self.similarity_weights = nn.Parameter(torch.zeros(len(widths)))
        for i, width in enumerate(widths):
            self.register_buffer(f"channel_mean_{i}", torch.zeros(width))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps of scaled images, each (n, c_i, h_i, w_i), from the input to the output."""
        raise NotImplementedError

    def folded(self) -> "SimilarityNetwork":
        """Return a network for measurements in eval mode that is as this one, or cheaper; of timm's, this one."""
        return self

    def pair_similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return how similar each image of `a` is to that of `b` in the network's representations.

        The two batches pass one after the other, each with its own BatchNorm statistics in train mode.
        Each call, in either mode, first moves the running channel means by a tenth toward the mean of
        both batches; they start at 0, are saved with the weights, and carry no gradient.

        Args:
            a, b: (k, in_channels, h, w) scaled images of any size; the linear layer is not used.

        Returns:
            (k,) in [-1, 1]: the cosine similarities of the centred maps, weighted by the softmax of as
            many learned scalars.
        """
        return self._similarity_of(map(torch.cat, zip(self.features(a), self.features(b), strict=True)))

    def logits_and_similarity(
        self, images: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, at_once: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `forward(images)` and `pair_similarity(a, b)`, computed in this order.

        Args:
            images: (n, in_channels, h, w) scaled images that are classified.
            a, b: as in `pair_similarity`.
            at_once: send all of them through the network as one batch, where it can and they are of one size; each
                part keeps its own BatchNorm statistics, so that the results are equal up to rounding.
        """
        return self(images), self.pair_similarity(a, b)

    def _similarity_of(self, maps: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return the (k,) similarities in maps (2k, c_i, h_i, w_i), first those of `a`; move the channel means."""
        scores = []
        for i, both in enumerate(maps):
            both = both.float()  # exact similarities, whatever the convolutions compute in
            running = self.get_buffer(f"channel_mean_{i}")
            with torch.no_grad():
                mean = torch.lerp(running, both.mean(dim=(0, 2, 3)), _MEAN_MOMENTUM)  # the gradient needs this very one
                running.copy_(mean)  # in place, so that a captured step, or functional_call, sees it
            centred = (both - mean[:, None, None]).flatten(1)
            # As F.cosine_similarity, which would launch three times as many kernels.
            a, b = centred.chunk(2)
            length_a, length_b = torch.linalg.vector_norm(centred, dim=1).clamp_min(_SHORTEST).chunk(2)
            scores.append((a * b).sum(dim=1) / (length_a * length_b))
        return (torch.stack(scores, dim=1) * self.similarity_weights.softmax(dim=0)).sum(dim=1)


class InputScaling(nn.Module):
    """Takes images in [0, 1] to the range that a network was trained on.

    Args:
        centered: scale to 5 * (x - 0.5), as the CIFAR tasks do; else leave [0, 1] as it is.
    """

    def __init__(self, centered: bool):
        super().__init__()
        self.centered = centered

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 5 * (images - 0.5) if self.centered else images

    def extra_repr(self) -> str:
        return f"centered={self.centered}"
