"""The networks: small members of the families that published checkpoints come from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from tasks import Task


class Flat(nn.Module):
    """An MLP over anything that can be made flat."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        inputs = task.inputs if task.kind == "vector" else task.inputs * 28
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, task.outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.layers(x)


def _block(inputs: int, outputs: int, *, norm: bool, **options: int) -> nn.Sequential:
    """Return a convolution, BatchNorm where asked for, and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, bias=not norm, **options)]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers, nn.ReLU())


class Convolutional(nn.Module):
    """Three convolutions and two dense layers, with or without BatchNorm."""

    def __init__(self, task: Task, width: int, *, norm: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, width, norm=norm, kernel_size=5, stride=2, padding=2),
            _block(width, 2 * width, norm=norm, kernel_size=3, stride=2, padding=1),
            _block(2 * width, 4 * width, norm=norm, kernel_size=3, padding=1),
        )
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.hidden = nn.Linear(64 * width, 8 * width)
        self.head = nn.Linear(8 * width, task.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.pool(self.features(x)).flatten(1)
        return self.head(functional.relu(self.hidden(x)))


class Separable(nn.Module):
    """Depthwise and pointwise convolutions in turn, as in MobileNet."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            _block(1, width, norm=True, kernel_size=3, stride=2, padding=1)
        ]
        for i in range(6):
            inputs, outputs = width * 2 ** (i // 2), width * 2 ** ((i + 1) // 2)
            layers += [
                _block(
                    inputs,
                    inputs,
                    norm=True,
                    kernel_size=3,
                    stride=1 + (i % 2),
                    padding=1,
                    groups=inputs,
                ),
                _block(inputs, outputs, norm=True, kernel_size=1),
            ]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(8 * width, task.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    """Two convolutions around a shortcut, three times."""

    def __init__(self, task: Task, width: int) -> None:
        super().__init__()
        self.stem = _block(1, width, norm=True, kernel_size=5, stride=2, padding=2)
        self.blocks = nn.ModuleList()
        self.shortcuts = nn.ModuleList()
        for i in range(3):
            inputs, outputs = width * 2 ** max(0, i - 1), width * 2**i
            self.blocks.append(
                nn.Sequential(
                    _block(
                        inputs, outputs, norm=True, kernel_size=3, stride=2, padding=1
                    ),
                    nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
                    nn.BatchNorm2d(outputs),
                )
            )
            self.shortcuts.append(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False))
        self.head = nn.Linear(4 * width, task.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.stem(x)
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = functional.relu(block(x) + shortcut(x))
        return self.head(x.mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM or GRU over rows of images, sequences or tokens."""

    def __init__(self, task: Task, width: int, *, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.tokens = task.kind == "tokens"
        self.embedding = nn.Embedding(task.inputs, width) if self.tokens else None
        inputs = width if self.tokens else task.inputs
        self.cell = cell(inputs, width, batch_first=True)
        self.head = nn.Linear(width, task.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, for each token where there are tokens."""
        if self.embedding is not None:
            x = self.embedding(x)
        elif x.dim() == 4:
            x = x[:, 0]
        states, _ = self.cell(x)
        return self.head(states if self.tokens else states[:, -1])


class Transformer(nn.Module):
    """Blocks of attention over patches, sequences or tokens; causal over tokens."""

    def __init__(self, task: Task, width: int, *, blocks: int = 2) -> None:
        super().__init__()
        self.kind = task.kind
        places = 16 if task.kind == "image" else 32
        if task.kind == "tokens":
            self.embedding: nn.Module = nn.Embedding(task.inputs, width)
        else:
            self.embedding = nn.Linear(49 if task.kind == "image" else 4, width)
        self.places = nn.Parameter(torch.randn(places, width) * 0.02)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks))
        self.attention = nn.ModuleList(
            nn.Linear(width, 3 * width) for _ in range(blocks)
        )
        self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.wide = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(blocks))
        self.narrow = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(blocks))
        self.head = nn.Linear(width, task.outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits, for each token where there are tokens."""
        if self.kind == "image":
            x = x.unfold(2, 7, 7).unfold(3, 7, 7).flatten(4).flatten(1, 3)
        x = self.embedding(x) + self.places
        for i, (attention, out) in enumerate(
            zip(self.attention, self.out, strict=True)
        ):
            q, k, v = (
                part.unflatten(2, (4, -1)).transpose(1, 2)
                for part in attention(self.norms[2 * i](x)).chunk(3, dim=2)
            )
            seen = functional.scaled_dot_product_attention(
                q, k, v, is_causal=self.kind == "tokens"
            )
            x = x + out(seen.transpose(1, 2).flatten(2))
            inner = functional.gelu(self.wide[i](self.norms[2 * i + 1](x)))
            x = x + self.narrow[i](inner)
        return self.head(x if self.kind == "tokens" else x.mean(1))


class Autoencoder(nn.Module):
    """Image to code and back; dense, or with convolutions."""

    def __init__(self, width: int, *, dense: bool) -> None:
        super().__init__()
        if dense:
            self.encoder = nn.Sequential(
                nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 32)
            )
            self.decoder = nn.Sequential(
                nn.Linear(32, width),
                nn.ReLU(),
                nn.Linear(width, 784),
                nn.Unflatten(1, (1, 28, 28)),
            )
        else:
            self.encoder = nn.Sequential(
                _block(1, width, norm=True, kernel_size=4, stride=2, padding=1),
                _block(width, 2 * width, norm=True, kernel_size=4, stride=2, padding=1),
                nn.Flatten(),
                nn.Linear(98 * width, 32),
            )
            self.decoder = nn.Sequential(
                nn.Linear(32, 98 * width),
                nn.Unflatten(1, (2 * width, 7, 7)),
                nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the image again."""
        return self.decoder(self.encoder(x))


ARCHITECTURES = {
    "mlp": Flat,
    "cnn": lambda task, width: Convolutional(task, width, norm=False),
    "cnn-bn": lambda task, width: Convolutional(task, width, norm=True),
    "mobilenet": Separable,
    "resnet": Residual,
    "lstm": lambda task, width: Recurrent(task, width, cell=nn.LSTM),
    "gru": lambda task, width: Recurrent(task, width, cell=nn.GRU),
    "transformer": Transformer,
    "autoencoder": lambda _, width: Autoencoder(width, dense=True),
    "conv-autoencoder": lambda _, width: Autoencoder(width, dense=False),
}

INITIALISERS = {
    "xavier": nn.init.xavier_uniform_,
    "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
    "orthogonal": nn.init.orthogonal_,
    "truncated": lambda weight: nn.init.trunc_normal_(weight, std=0.02),
    "uniform": lambda weight: nn.init.uniform_(
        weight, -(bound := 2.0 ** -round(math.log2(weight[0].numel()) / 2)), bound
    ),
}
"""Beside "default", torch's own; "uniform" has a power of two as its bound."""


def make(name: str, task: Task, width: int, initialiser: str) -> nn.Module:
    """Return a new network, its weights drawn from torch's generator."""
    module = ARCHITECTURES[name](task, width)
    if initialiser != "default":
        for key, parameter in module.named_parameters():
            if parameter.dim() >= 2 and key != "places":
                INITIALISERS[initialiser](parameter.data)
            elif key.endswith("bias"):
                nn.init.zeros_(parameter.data)
    return module
