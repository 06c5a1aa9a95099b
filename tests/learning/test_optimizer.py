from __future__ import annotations

import pytest
import torch

from scotopic.learning.optimizer import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 144), (64, 144), (128, 16)])
def test_a_matrix_keeps_its_directions_and_gets_equal_strengths(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    left = u.T @ orthogonal(matrix) @ v.T
    strengths = left.diagonal()
    assert 0.5 < strengths.min() <= strengths.max() < 1.3
    torch.testing.assert_close(left, torch.diag(strengths), atol=0.02, rtol=0)


def test_a_step_is_as_large_as_one_of_adam():
    """So that one learning rate suits both."""
    weights = torch.nn.Parameter(torch.zeros(32, 16, 3, 3))
    weights.grad = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    Muon([weights], lr=0.01, weight_decay=0).step()
    assert weights.detach().square().mean().sqrt() == pytest.approx(0.01 * 0.2, rel=0.2)


def test_vectors_and_small_layers_are_adams():
    ours, theirs = (torch.nn.Parameter(torch.ones(5, 16, 1, 1)) for _ in range(2))
    optimizers = Muon([ours], lr=0.01, weight_decay=0.1), torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for step in range(5):
        gradient = torch.randn(ours.shape, generator=torch.Generator().manual_seed(step))
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    torch.testing.assert_close(ours, theirs)
