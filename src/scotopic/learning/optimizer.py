"""The optimizer: Muon for the convolutions, Adam for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOMENTUM = 0.95
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
_NEWTON_SCHULZ, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Coefficients of the iteration that brings singular values near to 1 (Jordan et al. 2024)."""
_ADAM_RMS = 0.2
"""Root mean square of Adam's steps, which those of matrices are scaled to (Liu et al. 2025, arXiv:2502.16982)."""
_LEAST_OUTPUTS = 16


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are orthogonal matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon), in float32.

    The same accuracy takes less than half of Adam's steps here (docs/decisions/0010). A convolution is a matrix of
    outputs x (inputs x height x width); everything else, and layers of few outputs, is left to Adam with decoupled
    weight decay. `torch.optim.Muon` takes matrices alone, and computes in bfloat16, which many processors emulate.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # nothing is evaluated again
        """Change each parameter by its gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                change = _orthogonal_step if _is_matrix(parameter) else _adam_step
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(change(parameter.grad, self.state[parameter]), alpha=group["lr"])


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim > 1 and parameter.shape[0] >= _LEAST_OUTPUTS


def _orthogonal_step(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    if not state:
        state["momentum"] = torch.zeros_like(gradient)
    momentum: Tensor = state["momentum"].mul_(_MOMENTUM).add_(gradient)
    matrix = gradient.add(momentum, alpha=_MOMENTUM).flatten(1)  # Nesterov's
    step: Tensor = orthogonal(matrix) * (_ADAM_RMS * max(matrix.shape) ** 0.5)
    return step.view(gradient.shape)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix of the same singular vectors, its singular values near to 1: between 0.7 and 1.2, mostly."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_ITERATIONS):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _adam_step(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """Return a step of Adam (Kingma and Ba 2015, arXiv:1412.6980)."""
    if not state:
        state |= {"count": torch.zeros(1), "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
    count = state["count"].add_(1).item()
    mean = state["mean"].lerp_(gradient, 1 - _BETAS[0])
    square = state["square"].lerp_(gradient * gradient, 1 - _BETAS[1])
    change: Tensor = mean / (1 - _BETAS[0] ** count) / ((square / (1 - _BETAS[1] ** count)).sqrt_() + _EPSILON)
    return change
