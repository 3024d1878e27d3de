"""The optimizer's learning rate and its state, across devices."""

from typing import Any

import torch


def build_optimizer(
    network: torch.nn.Module, *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return SGD in one kernel; on a CUDA device its learning rate is a tensor there, which a captured step reads."""
    parameters = [*network.parameters()]
    device = parameters[0].device
    first = torch.tensor(lr, device=device) if device.type == "cuda" else lr
    return torch.optim.SGD(parameters, lr=first, momentum=momentum, weight_decay=weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what `load_optimizer` needs, the same on every device: learning rates as numbers."""
    state = optimizer.state_dict()
    return {**state, "param_groups": [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]}


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over a state that may come of another device.

    Momentum is laid out in memory as its parameter is: fused SGD goes through both as they lie, and a state keeps the
    layout of the device where it was made.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter, of_parameter in optimizer.state.items():
        if (momentum := of_parameter.get("momentum_buffer")) is not None:
            of_parameter["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
