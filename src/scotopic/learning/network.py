"""The network: a small U-Net that says where nuclei are and how far their borders lie."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from scotopic.learning.calibration import PLANES
from scotopic.learning.targets import GRID, RAYS

if TYPE_CHECKING:
    from collections.abc import Iterator

STRIDE = 16
"""Height and width of an input must be multiples of this."""
_RAY_UNIT_PX = 10.0
"""Rays come out of the network in this unit, so that all outputs are about one."""
_NORM_MOMENTUM = 0.02
"""Four crops at four kinds of light say little about the mean: it is taken over some fifty steps."""
_RAY_FACTOR = 0.05
_RAY_WEIGHT_OUTSIDE = 0.3


class NucleusNet(nn.Module):
    """U-Net (Ronneberger et al. 2015, MICCAI, LNCS 9351:234) on the grid, with added skips.

    Skips are added, not joined, and the way up has one convolution a level but for the finest: half the arithmetic of
    the classical shape.
    """

    def __init__(self, width: int = 16, depth: int = 3) -> None:
        """Make a network of random weights.

        Parameters
        ----------
        width : int
            Channels at half resolution; twice as many at each level below.
        depth : int
            Number of levels below.
        """
        super().__init__()
        self.shape = {"width": width, "depth": depth}
        channels = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(before, n), *_convolution(n, n))
            for before, n in zip([PLANES, *channels], channels, strict=False)
        )
        self.reduce = nn.ModuleList(nn.Conv2d(below, n, 1) for n, below in itertools.pairwise(channels))
        self.up = nn.ModuleList(
            nn.Sequential(*_convolution(n, n), *(_convolution(n, n) if n == width else ())) for n in channels[:-1]
        )
        self.head = nn.Conv2d(width, 1 + GRID**2, 1)
        self.ray_head = nn.Conv2d(width, RAYS, 1)
        with torch.no_grad():  # most points are no nucleus, most rays about as long as their unit
            self.head.get_parameter("bias").copy_(torch.tensor([-2.0, *[0.0] * GRID**2]))
            self.ray_head.get_parameter("bias").fill_(1.0)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the network says of images.

        Parameters
        ----------
        planes : Tensor, shape (N, PLANES, Y/2, X/2)
            `input_planes` of images; Y and X are multiples of `STRIDE`.

        Returns
        -------
        (Tensor, Tensor, Tensor)
            Logit of the object probability (N, Y/2, X/2), rays in units of 10 px (N, RAYS, Y/2, X/2), logit of the
            foreground (N, Y, X).
        """
        probability, foreground, features = self.look(planes)
        return probability, self.ray_head(features).float(), foreground

    def look(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits as `forward` does, and the features that rays follow from, shape (N, width, Y/2, X/2).

        Rays are wanted at few points when nuclei are found: `rays_from` gives those.
        """
        x, skips = planes, []
        for number, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if number else x)
            skips.append(x)
        skips.pop()
        for reduce, block in reversed(list(zip(self.reduce, self.up, strict=True))):
            x = block(functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest") + skips.pop())
        probability, foreground = self.head(x).float().split([1, GRID**2], dim=1)
        return probability[:, 0], functional.pixel_shuffle(foreground, GRID)[:, 0], x

    def rays_from(self, features: Tensor) -> Tensor:
        """Return the rays in pixels, shape (n, RAYS), at points of which the features are given, shape (n, width)."""
        weight, bias = self.ray_head.weight.flatten(1), self.ray_head.bias
        return _RAY_UNIT_PX * functional.linear(features, weight, bias).clamp(min=0)


def _convolution(before: int, after: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(before, after, 3, padding=1, bias=False)
    yield nn.BatchNorm2d(after, momentum=_NORM_MOMENTUM)
    yield nn.ReLU(inplace=True)


def loss(
    said: tuple[Tensor, Tensor, Tensor], probability: Tensor, rays: Tensor, foreground: Tensor, weight: Tensor
) -> Tensor:
    """Return the loss of a batch: cross-entropy of both probabilities, and the error of the rays inside nuclei.

    Parameters
    ----------
    said : (Tensor, Tensor, Tensor)
        What the network says.
    probability, rays, foreground, weight : Tensor
        `Targets`, in batches; where the weight is 0 nothing is learned.
    """
    on_grid = functional.max_pool2d(1 - weight[:, None], GRID)[:, 0].neg().add(1)
    objects = functional.binary_cross_entropy_with_logits(said[0], probability, reduction="none")
    pixels = functional.binary_cross_entropy_with_logits(said[2], foreground, reduction="none")
    inside = (on_grid > 0) & (probability > 0)  # most points are not: their rays are left out before, which is faster
    off = (_RAY_UNIT_PX * said[1].movedim(1, -1)[inside] - rays.movedim(1, -1)[inside]).abs().mean(1)
    off = off * (_RAY_WEIGHT_OUTSIDE + probability[inside])
    return (
        (objects * on_grid).sum() / on_grid.sum().clamp(min=1)
        + (pixels * weight).sum() / weight.sum().clamp(min=1)
        + _RAY_FACTOR * off.sum() / on_grid.sum().clamp(min=1)
    )


def freeze_normalisation(network: NucleusNet) -> None:
    """Let a network that is being trained normalise as it will when it predicts, by the means that it has gathered.

    A batch of bright crops and one of dark crops have other means: a network that learned to rely on those of its batch
    does not find them again in a single image.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def fused(network: NucleusNet) -> NucleusNet:
    """Return a network for prediction alone, its normalisations folded into the convolutions before them."""
    network = network.eval()
    for block in [*network.down, *network.up]:
        layers = list(block)
        merged: list[nn.Module] = []
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d) and isinstance(merged[-1], nn.Conv2d):
                merged[-1] = torch.nn.utils.fusion.fuse_conv_bn_eval(merged[-1], layer)
            else:
                merged.append(layer)
        for _ in layers:
            del block[-1]
        block.extend(merged)
    return network
