"""The cascade of `standard` and `custom`: which attack runs on which image at which strength, until one breaks it.

`plus` and `rand` run as in the authors' own loop, in `attack.py`. The order in which stages run is `Stage.when`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from brainreg.attacks.autoattack.stages import Stage, perturbation, widest
from brainreg.attacks.base import Outcome, Progress, logits_of, predicted
from brainreg.attacks.names import Norm

# How far rounding carries an example beyond a strength: of the strength, and of the distance from black to white
# (a unit in the last place of each pixel).
_ROUNDING = 1e-5, 2**-24

# Copies of images, one for each target class, that are attacked as one batch while few images are left. Small batches
# take as long as these; larger ones would take longer, and an image that one target breaks needs no others.
_SIDE_BY_SIDE = 64

# Signs of masked gradients, as `Outcome.masked` counts them.
_NO_GRADIENT, _BY_SQUARE, _BELOW = 1, 2, 3


class Cascade:
    """Finds the smallest strength of a grid at which each image breaks.

    `needed` (n,) is the strength of the nearest adversarial example known. An image's level is the largest strength
    that is not known to break it, as an index of `levels`, -1 where all do; `withstood` (s, n) tells at which levels it
    has withstood every attack. It is settled when it has at its level.
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        right: torch.Tensor,
        norm: Norm,
        levels: list[float],
    ):
        self.model, self.images, self.labels, self.norm = model, images, labels, norm
        self.widest = widest(images.shape[1:], norm)
        self.levels = [min(level, self.widest) for level in levels]
        self.grid = torch.tensor(self.levels, device=images.device)
        self.examples = images.clone()
        self.needed = torch.where(right, torch.inf, 0.0)
        self.withstood = torch.zeros(len(levels), len(labels), dtype=torch.bool, device=images.device)
        self.broken_by = torch.full((len(levels), len(labels)), -1, device=images.device)
        self.masked = torch.zeros_like(labels)
        self.copies = 1

    @torch.no_grad()  # the attacks switch gradients on where they need them
    def run(self, stages: "list[Stage]", batch_size: int, on_progress: Progress, infer: bool) -> None:
        everywhere, once, last = (
            [stage for stage in stages if stage.when == when] for when in ("everywhere", "once", "last")
        )
        self.copies = min(batch_size, _SIDE_BY_SIDE)
        known = 0

        def tell() -> None:
            nonlocal known
            known = max(known, int(self._settled().sum()))  # an image that breaks at a smaller strength is open again
            on_progress(known, len(self.labels))

        def run_last(level: int, index: torch.Tensor) -> None:
            """Run what is left of the attacks at a level; an image that breaks below one it withstood is a sign."""
            for batch in index.split(batch_size):
                left = self._attack(batch, level, last)
                self.withstood[level, left] = True
                broken = batch[(self.level(batch) < level) & self.withstood[level + 1 :, batch].any(dim=0)]
                self.masked[broken] = _BELOW
                tell()

        for level in reversed(range(len(self.levels))):
            for batch in (self.level() >= level).nonzero().flatten().split(batch_size):
                self._attack(batch, level, everywhere)
                tell()
        for batch in (self.level() >= 0).nonzero().flatten().split(batch_size):
            for stage in once:
                self._run_stage(stage, batch, 0, None)
            tell()
        for level in reversed(range(len(self.levels))):
            run_last(level, (self.level() == level).nonzero().flatten())
        if len(self.levels) == 1:
            return
        self._look_for_masks(stages, batch_size)
        if infer and not self.masked.any():
            for level, index in self._sampled():
                run_last(level, index)
        if not infer or self.masked.any():
            for level in reversed(range(len(self.levels))):
                run_last(level, ((self.level() >= level) & ~self.withstood[level]).nonzero().flatten())

    def _settled(self) -> torch.Tensor:
        """(n,) whether the smallest strength that breaks an image is known, if nothing masks its gradient."""
        level = self.level()
        return (level < 0) | self.withstood.gather(0, level.clamp(min=0)[None])[0]

    def _look_for_masks(self, stages: "list[Stage]", batch_size: int) -> None:
        """Note which images have no gradient, and which Square broke where attacks with gradients failed."""
        squares = {stage.place for stage in stages if stage.name == "square"}
        if len({stage.place for stage in stages}) > 1:
            for place in squares:
                self.masked[(self.broken_by == place).any(dim=0)] = _BY_SQUARE
        for batch in (self.needed > 0).nonzero().flatten().split(batch_size):
            images = self.images[batch].requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(self.model(images), self.labels[batch], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, images)
            zero = ~(gradient.flatten(1).abs().amax(dim=1) > 0)  # NaN leads nowhere either
            self.masked[batch[zero]] = _NO_GRADIENT

    def _sampled(self) -> list[tuple[int, torch.Tensor]]:
        """A tenth of the images, two at least, that withstand a strength: at a smaller one, each in its turn."""
        withstanding = (self.level() > 0).nonzero().flatten()
        count = min(len(withstanding), max(2, -(-len(withstanding) // 10)))
        sample = withstanding[torch.linspace(0, len(withstanding) - 1, count).long()] if count else withstanding
        levels = torch.arange(len(sample), device=sample.device) % self.level(sample)
        return [(level, sample[levels == level]) for level in reversed(range(len(self.levels)))]

    def level(self, batch: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The levels of a batch of images, or of all."""
        return (self.grid[:, None] < self.needed[batch]).sum(dim=0) - 1

    def _attack(self, batch: torch.Tensor, level: int, stages: "list[Stage]") -> torch.Tensor:
        """Run stages at a level, each on the images that the former have left; return those that the last has left.

        Before them, the examples that the next larger strength has left are scaled down to this one.
        """
        eps = self.levels[level]
        shrunk = batch[self.level(batch) == level]
        if level + 1 < len(self.levels) and len(shrunk):
            self._take(shrunk, self._scaled(shrunk, eps), eps, self.broken_by[level + 1, shrunk])
        for stage in stages:
            self._run_stage(stage, batch, level, eps)
        return batch[self.level(batch) >= level]

    def _run_stage(self, stage: Stage, batch: torch.Tensor, level: int, eps: float | None) -> None:
        """Run a stage on the images that nothing has broken at a level: one target after the other, side by side where
        few images are left; what one finds counts only where those before it have failed.

        Args:
            eps: as in `_take`.
        """
        done = 0
        while done < stage.targets and len(batch := batch[self.level(batch) >= level]):
            count = min(stage.targets - done, max(1, self.copies // len(batch)))
            target = torch.arange(done, done + count, device=batch.device).repeat_interleave(len(batch))
            images, labels = self.images[batch].repeat(count, 1, 1, 1), self.labels[batch].repeat(count)
            for found in stage.run(images, labels, 1.0 if eps is None else eps, target).split(len(batch)):
                left = self.level(batch) >= level
                self._take(batch[left], found[left], eps, stage.place)
            done += count

    def _scaled(self, batch: torch.Tensor, eps: float) -> torch.Tensor:
        """The examples known of a batch of images, scaled down to `eps`; images without one as they are."""
        clean = self.images[batch]
        size = perturbation(clean, self.examples[batch], self.norm)
        factor = torch.where(size > 0, eps / size.clamp(min=1e-12), 0.0).clamp(max=1)
        return clean + factor[:, None, None, None] * (self.examples[batch] - clean)

    def _take(self, batch: torch.Tensor, found: torch.Tensor, eps: float | None, place: int | torch.Tensor) -> None:
        """Keep the nearest examples that the model misclassifies.

        Args:
            batch: (b,) indices of images.
            found: (b, c, h, w), what an attack made of them.
            eps: radius of the ball that they were made in, None for no ball. What lies beyond it by more than the
                rounding of pixels is no example.
            place: of the attack, or of each image's attack.
        """
        found = found.clamp(0, 1)
        fooled = predicted(logits_of(self.model, found, len(found))) != self.labels[batch]
        size = perturbation(self.images[batch], found, self.norm)
        nearer = fooled & (size > 0)  # without a change, another batch has rounded the logits otherwise
        if eps is not None:
            nearer &= size <= eps + _ROUNDING[0] * eps + _ROUNDING[1] * self.widest
            size = size.clamp(max=eps)
        nearer &= size < self.needed[batch]
        before = self.level(batch)
        self.examples[batch[nearer]], self.needed[batch[nearer]] = found[nearer], size[nearer]
        levels = torch.arange(len(self.levels), device=batch.device)[:, None]
        newly = (levels <= before) & (levels > self.level(batch))
        self.broken_by[:, batch] = torch.where(newly, place, self.broken_by[:, batch])

    def outcome(self, strengths: Sequence[float], stages: tuple[str, ...]) -> Outcome:
        asked = torch.tensor(strengths, device=self.images.device).clamp(max=self.widest)
        # Zero changes nothing: there, what needs no strength is wrong, and nothing else.
        correct = torch.where(asked[:, None] > 0, asked[:, None] < self.needed, self.needed > 0)
        broken_by, withstood = self.broken_by, self.withstood
        if len(strengths) > len(self.levels):
            broken_by = torch.cat([torch.full_like(self.labels, -1)[None], broken_by])
            withstood = torch.cat([torch.ones_like(self.labels, dtype=torch.bool)[None], withstood])
        return Outcome(
            correct, self.examples, self.needed, broken_by, stages, inferred=correct & ~withstood, masked=self.masked
        )
