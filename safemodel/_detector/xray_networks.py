"""The two networks of the published few-shot detector, in torch.

Neither has a head: what comes out is the embedding. Written from a description of the
layers. What the description found inert in the published program (dropout, BatchNorm)
is inert here, too, unless it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

EPSILON = 1e-3
"""Added to the variance by BatchNorm where these networks come from."""


class FixedNorm(nn.Module):
    """BatchNorm whose statistics are never learned: mean 0, variance 1, then affine."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input, scaled and shifted by channel."""
        scale = self.weight * (1 + EPSILON) ** -0.5
        scaled: torch.Tensor = x * scale[:, None, None] + self.bias[:, None, None]
        return scaled


def one_shot(*, dropout: bool = False, centred: bool = False) -> nn.Sequential:
    """Return the small CNN: 100 × 100 in, 4,096 out, 27 million parameters.

    Args:
        dropout: Drop half of the activations while training. Published: never.
        centred: Draw the dense weights around 0. Published: around 0.5, which makes all
            outputs near copies of one another.
    """
    rest = (lambda: nn.Dropout(0.5)) if dropout else nn.Identity
    layers: list[nn.Module] = []
    sizes = ((1, 64, 10), (64, 128, 7), (128, 128, 4), (128, 256, 4))
    for inputs, outputs, size in sizes:
        layer = nn.Conv2d(inputs, outputs, size)
        nn.init.normal_(layer.weight, 0.0, 0.01)
        bias = torch.zeros(outputs)
        if inputs != 1:
            nn.init.normal_(bias, 0.5, 0.01)
        layer.bias = nn.Parameter(bias)
        layers += [layer, nn.ReLU()]
        if outputs != 256:
            layers.append(nn.MaxPool2d(2))
        layers.append(rest())
    dense = nn.Linear(5 * 5 * 256, 4096)
    nn.init.normal_(dense.weight, 0.0 if centred else 0.5, 0.01)
    nn.init.normal_(dense.bias, 0.5, 0.01)
    return nn.Sequential(*layers, nn.Flatten(), dense)


class Plain(nn.Module):
    """Adds what two convolutions make of the input, at the same size (type 2)."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_step(channels, channels, norm))
        self.outer = nn.Sequential(*_step(channels, channels, norm)[:2])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum; no ReLU after it."""
        summed: torch.Tensor = x + self.outer(self.inner(x))
        return summed


class Halving(nn.Module):
    """The same at half the size, with a 1 × 1 convolution beside it (type 3)."""

    def __init__(
        self, inputs: int, outputs: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_step(inputs, outputs, norm))
        self.outer = nn.Sequential(*_step(outputs, outputs, norm)[:2])
        self.beside = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum."""
        # Where the published program pads an even size, it is behind the last pixel,
        # and the mean does not count what was padded: that is what ceil_mode does.
        reduced = functional.avg_pool2d(
            self.outer(self.inner(x)), 3, stride=2, ceil_mode=True
        )
        summed: torch.Tensor = reduced + self.norm(self.beside(x))
        return summed


class Spread(nn.Module):
    """The mean of each channel over the whole image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (batch, channels)."""
        return x.mean((2, 3))


def _step(
    inputs: int, outputs: int, norm: Callable[[int], nn.Module]
) -> list[nn.Module]:
    """Return a 3 × 3 convolution, BatchNorm and ReLU (type 1)."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [layer, norm(outputs), nn.ReLU()]


def steganalysis(*, batch_norm: bool = False) -> nn.Sequential:
    """Return SRNet: 256 × 256 in, 512 out, 4.8 million parameters.

    Args:
        batch_norm: Normalise by the statistics of the batch while training, and by
            their running mean afterwards. Published: by a mean of 0 and a variance of
            1, always.
    """
    norm: Callable[[int], nn.Module] = FixedNorm
    if batch_norm:
        norm = lambda channels: nn.BatchNorm2d(channels, eps=EPSILON)
    net = nn.Sequential(
        *_step(1, 64, norm),
        *_step(64, 16, norm),
        *(Plain(16, norm) for _ in range(5)),
        Halving(16, 16, norm),
        Halving(16, 64, norm),
        Halving(64, 128, norm),
        Halving(128, 256, norm),
        *_step(256, 512, norm),
        *_step(512, 512, norm)[:2],
        Spread(),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return net
