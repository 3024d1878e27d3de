"""One step of training, and its capture as a CUDA graph."""

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F

from brainreg.errors import first_line
from brainreg.hyperparameters import Hyperparameters
from brainreg.method.loss import similarity_loss
from brainreg.models.base import InputScaling, SimilarityNetwork
from brainreg.training.batches import Batch

logger = logging.getLogger(__name__)

# Steps that are run as they are before one is captured: libraries are loaded, and the momentum exists, by then.
_STEPS_BEFORE_CAPTURE = 3


class TrainingStep:
    """Forward passes, loss, backward pass, and the optimizer's update.

    Args:
        settings: the hyperparameters.
        network: on its device, in train mode.
        optimizer: of its parameters.
        centered: whether the classified images are scaled to 5 * (x - 0.5).
        pairs_centered: whether the regularization images are.

    Attributes:
        sums: (2,) on the network's device: cross-entropy and similarity loss, summed over steps since `reset`.
    """

    def __init__(
        self,
        settings: Hyperparameters,
        network: SimilarityNetwork,
        optimizer: torch.optim.Optimizer,
        *,
        centered: bool,
        pairs_centered: bool = False,
    ):
        self.settings, self.network, self.optimizer = settings, network, optimizer
        self._scaling, self._pair_scaling = InputScaling(centered), InputScaling(pairs_centered)
        device = next(network.parameters()).device
        self._half = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")
        # One batch of all images launches a third of the kernels; a CPU, which waits for arithmetic, is slower by it.
        self._at_once = device.type == "cuda"
        self.sums = torch.zeros(2, device=device)

    def reset(self) -> None:
        """Begin the sums anew."""
        self.sums.zero_()

    def __call__(self, batch: Batch) -> None:
        """Train on one batch."""
        images, labels = to_float(batch.images), batch.labels
        if batch.noise is not None:
            images = (images + self.settings.augment_noise * batch.noise).clamp(0, 1)
        if batch.start is not None:
            images = self._attacked(images, labels, batch.start)
        inputs = self._scaling(images)
        if batch.pairs is None:
            with self._half:
                logits = self.network(inputs)
            step_loss = cross_entropy = F.cross_entropy(logits.float(), labels)
            similarity = torch.zeros_like(cross_entropy)
        else:
            *both, targets = batch.pairs
            with self._half:
                logits, scores = self.network.logits_and_similarity(
                    inputs, *(self._pair_scaling(to_float(part)) for part in both), at_once=self._at_once
                )
            cross_entropy = F.cross_entropy(logits.float(), labels)
            similarity = similarity_loss(scores, targets, self.settings.arctanh)
            step_loss = cross_entropy + (self.settings.reg_alpha or 0.0) * similarity
        self.optimizer.zero_grad()
        step_loss.backward()
        self.optimizer.step()
        self.sums += torch.stack([cross_entropy.detach(), similarity.detach()])

    def _attacked(self, images: torch.Tensor, labels: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Return images (n, c, h, w) in [0, 1] after one step of FGSM from a random start, in train mode.

        Source: Wong, Rice and Kolter, arXiv 2001.03994: a step of 1.25 eps, back into the ball of eps.
        """
        eps = self.settings.adversarial_eps
        begun = (images + eps * start).clamp(0, 1).requires_grad_()
        with self._half:
            logits = self.network(self._scaling(begun))
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits.float(), labels), begun)
        moved = begun.detach() + 1.25 * eps * gradient.sign()
        return moved.clamp(images - eps, images + eps).clamp(0, 1)


class GraphedStep:
    """A step that is captured as one CUDA graph, and replayed: one launch instead of a thousand.

    The first steps, and batches of other sizes than the captured one, run as they are. Where the capture fails, all
    of them do, and a warning says so.

    Args:
        step: takes tensors on a CUDA device, of which those of one size are many; returns nothing; waits for nothing.
    """

    def __init__(self, step: Callable[..., None]):
        self._step = step
        self._steps_before_capture = _STEPS_BEFORE_CAPTURE
        self._inputs: list[torch.Tensor] | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed = False

    def __call__(self, *inputs: torch.Tensor) -> None:
        """Run the step on `inputs`."""
        if self._inputs is None:
            self._inputs = [tensor.clone() for tensor in inputs]
        same_sizes = [tensor.shape for tensor in inputs] == [tensor.shape for tensor in self._inputs]
        if self._failed or not same_sizes:
            self._step(*inputs)
        elif self._steps_before_capture:
            self._steps_before_capture -= 1
            self._run_aside(*inputs)
        else:
            if self._graph is None:
                self._capture()
            if self._graph is None:
                self._step(*inputs)
                return
            for kept, given in zip(self._inputs, inputs, strict=True):
                kept.copy_(given)
            self._graph.replay()

    def _run_aside(self, *inputs: torch.Tensor) -> None:
        """Run the step on a stream of its own, as what comes before a capture must."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)

    def _capture(self) -> None:
        assert self._inputs is not None
        try:
            graph = torch.cuda.CUDAGraph()
            # Other threads of a worker may use the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._step(*self._inputs)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._failed = True
            reason = first_line(error)
            logger.warning("a training step cannot be captured as a CUDA graph, so each is launched anew: %s", reason)
        else:
            self._graph = graph


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32 in [0, 1]."""
    return images.float() / 255
