import math

import pytest
import torch

from brainreg.method.loss import similarity_loss


def test_both_losses_equal_the_published(golden):
    outputs, targets = golden["loss/outputs"], golden["loss/targets"]
    torch.testing.assert_close(similarity_loss(outputs, targets), golden["loss/arctanh"], rtol=1e-4, atol=0)
    torch.testing.assert_close(similarity_loss(outputs, targets, arctanh=False), golden["loss/mse"], rtol=1e-4, atol=0)


def test_the_loss_is_finite_and_differentiable_at_the_ends():
    outputs = torch.tensor([1.0, -1.0, 0.0], requires_grad=True)
    loss = similarity_loss(outputs, torch.tensor([-1.0, 1.0, 1.0]))
    loss.backward()
    end = math.log(2 + 1e-5) - math.log(1e-5)
    assert loss.item() == pytest.approx((4 * end**2 + 4 * end**2 + end**2) / 3, rel=1e-3)
    assert outputs.grad.isfinite().all() and (outputs.grad != 0).all()
