"""Files with and without something in their weights."""

import numpy as np
import torch

from safemodel.evaluation import stego
from tests.unit.detector.helpers_detector import generator, trained

KEY = bytes(range(32))
"""Of what is encrypted: nothing depends on it."""


def weights_like(rand, sizes, dtype=torch.float32):
    """Return named tensors of so many weights, as training leaves them."""
    random = generator(rand)
    return {
        name: torch.from_numpy(trained(random, size)).to(dtype)
        for name, size in sizes.items()
    }


def matrices_like(rand, sizes, dtype=torch.float32):
    """Return the same as matrices of 100 columns, as layers have them."""
    weights = weights_like(rand, sizes, dtype)
    return {name: one.reshape(-1, 100) for name, one in weights.items()}


def int8_like(rand, size):
    """Return weights that were quantised to eight bits."""
    values = generator(rand).standard_normal(size) * 30
    return torch.from_numpy(np.clip(np.rint(values), -127, 127).astype(np.int8))


def encrypted(size):
    """Return bytes that nobody tells from random ones."""
    return stego.payload("encrypted", size, key=KEY)


def filled(weights, bits, names=None, dtype=None):
    """Return weights with encrypted data in the low bits of all that are named."""
    names = list(weights) if names is None else list(names)
    method = stego.Lsb(bits=bits)
    size = sum(weights[name].numel() for name in names) * bits // 8
    data = encrypted(size)
    hidden, _ = stego.embed(weights, data, method, tensors=names, dtype=dtype)
    return hidden, data, method
