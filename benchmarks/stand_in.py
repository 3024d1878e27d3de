"""A stand-in for the published recipe, in the style that is timed against: nothing here is used elsewhere.

One worker process makes batches of 64 from PIL images, each of which is transformed by itself; a step does three
forward passes in float32 and one backward pass; after each epoch, the whole training set and the validation set are
evaluated through such loaders. The network, the loss and the draw of pairs are this project's, so that a step computes
what a step of `brainreg.training.loop.train` does.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
import torchvision.transforms as T
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from brainreg.hyperparameters import Hyperparameters
from brainreg.method.loss import similarity_loss
from brainreg.models.base import InputScaling, SimilarityNetwork
from brainreg.models.build import build_model
from brainreg.training.data import TrainingData
from brainreg.training.step import to_float


class Pictures(Dataset):
    """uint8 images (n, c, h, w), each made a PIL image and transformed when it is asked for."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: T.Compose):
        self.pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels, self.transform = labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        pixels = self.pixels[i]
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        return self.transform(image), self.labels[i]


class StandIn:
    """One network in training.

    Args:
        settings: the hyperparameters; `precision` is ignored.
        data: as `train` takes it: its own pairs, labels and split.
        color: the images of `data`, in the channels that their files have.
        color_valid: the validation images, likewise.
        device: of the network.
    """

    def __init__(
        self,
        settings: Hyperparameters,
        data: TrainingData,
        color: torch.Tensor,
        color_valid: torch.Tensor,
        device: torch.device,
    ):
        self.settings, self.device, self.data = settings, device, data
        self.network = build_model(
            settings.archi, data.in_channels, data.num_classes, settings.base_channels, data.image_size
        ).to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=settings.lr, momentum=settings.momentum)
        last = [T.ToTensor(), InputScaling(data.task.centered)]
        if color.shape[1] == 3 and data.in_channels == 1:
            last = [T.Grayscale(), *last]
        crop = [T.RandomCrop(data.image_size, padding=4, padding_mode="reflect"), T.RandomHorizontalFlip()]
        augmented = T.Compose([*(crop if data.task.name.startswith("CIFAR") else []), *last])
        training = Pictures(color[data.train_indices], data.labels[data.train_indices], augmented)
        validation = Pictures(color_valid, data.valid_labels, T.Compose(last))
        common = {"batch_size": settings.resnet_batch_size, "num_workers": 1}
        self.training = DataLoader(training, shuffle=True, **common)
        self.validation = DataLoader(validation, **common)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels in self.training:
            yield images.to(self.device), labels.to(self.device)

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Train on scaled images (b, c, h, w) and the next pairs; return the loss."""
        loss = F.cross_entropy(self.network(images), labels)
        if self.data.pairs is not None:
            pairs, scaling = self.data.pairs, InputScaling(self.data.pairs.centered)
            rows, columns, targets = next(pairs.sampler)
            a, b = (scaling(to_float(pairs.images[index.cpu()])).to(self.device) for index in (rows, columns))
            scores = self.network.pair_similarity(a, b)
            loss = loss + self.settings.reg_alpha * similarity_loss(
                scores, targets.to(self.device), self.settings.arctanh
            )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, loader: DataLoader) -> tuple[float, float]:
        """Mean cross-entropy and accuracy over a loader, in eval mode."""
        network: SimilarityNetwork = self.network.eval()
        loss, right, count = 0.0, 0, 0
        for images, labels in loader:
            logits = network(images.to(self.device))
            labels = labels.to(self.device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += (logits.argmax(dim=1) == labels).sum().item()
            count += len(labels)
        self.network.train()
        return loss / count, right / count

    def epoch(self) -> None:
        """Train an epoch, and evaluate the training set and the validation set."""
        self.network.train()
        for images, labels in self.batches():
            self.step(images, labels)
        self.evaluate(self.training)
        self.evaluate(self.validation)
