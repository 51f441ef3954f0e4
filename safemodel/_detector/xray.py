"""The published few-shot detector: an image, an embedding, the nearest of two classes.

It is trained on a few clean networks and a few that hold a payload, three and three as
published. What was found inert in the published program is a switch here, off unless it
is asked for. It gives no score and no false positive rate, and it sees only that the
bytes of a payload are not uniform: of an encrypted payload it knows nothing.
"""

from __future__ import annotations

from hashlib import sha256
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from safemodel._detector.gray_image import fourpart, resize
from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

MARGIN = 0.5
RATE = 6e-5
EPOCHS = {"ub": 100, "st": 5, "es": 1}
ENOUGH = (0.1, 2.0)
"""Mode "ub" ends after the first epoch whose mean loss lies within. Should the loss
fall below before that, all epochs are run, as published."""


class Settings(Value):
    """How a detector is trained; the defaults are the published ones.

    Attributes:
        network: "osl", the small CNN on 100 × 100 pixels, or "srnet" on 256 × 256.
        mode: "ub", "st" or "es": at most 100, 5 or 1 epochs; the first may stop early.
        dropout: Drop activations while training; of "osl" only.
        batch_norm: Learn the statistics of BatchNorm; of "srnet" only.
        centred: Draw the dense weights around 0, not 0.5; of "osl" only.
        normalise: Scale each embedding to length 1.
    """

    network: Literal["osl", "srnet"] = "osl"
    mode: Literal["ub", "st", "es"] = "ub"
    dropout: bool = False
    batch_norm: bool = False
    centred: bool = False
    normalise: bool = False

    def __post_init__(self) -> None:
        if self.network not in ("osl", "srnet"):
            raise ValueError(f"network is 'osl' or 'srnet': {self.network!r}")
        if self.mode not in EPOCHS:
            raise ValueError(f"mode is 'ub', 'st' or 'es': {self.mode!r}")
        if self.network == "osl" and self.batch_norm:
            raise ValueError("osl has no BatchNorm")
        if self.network == "srnet" and (self.dropout or self.centred):
            raise ValueError("srnet has neither dropout nor a dense layer")

    @property
    def side(self) -> int:
        """Height and width of the image."""
        return 100 if self.network == "osl" else 256

    @property
    def batch(self) -> int:
        """Triplets a step."""
        return 16 if self.network == "osl" else 2


PUBLISHED = Settings()

SUPPORT = Path(__file__).with_name("xray_support.npy")
"""Images of three clean networks of ours, and of the same ones with 6 low bits of each
weight replaced; training/reproduce_xray.py makes them."""

SUPPORT_SHA256 = "9b001e3070943149e5084098433ecd560d8cec5d448ef36fc12d53af71f9da2e"


def image_of(words: NDArray[np.uint32], side: int) -> NDArray[np.uint8]:
    """Return the image a detector looks at, of all float32 weights of a network."""
    return resize(fourpart(words), side)


def triplets(benign: int, stego: int) -> NDArray[np.int64]:
    """Return all triplets: two of one class, and one of the other.

    Args:
        benign: How many clean examples there are; their indices come first.
        stego: How many with a payload.

    Returns:
        (n, 3) indices of anchor, positive and negative.

    >>> len(triplets(3, 3))
    18
    """
    first, second = range(benign), range(benign, benign + stego)
    rows = [
        (a, p, n)
        for own, other in ((first, second), (second, first))
        for a, p in combinations(own, 2)
        for n in other
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


class XRay:
    """A trained detector: a network, and the embeddings of what it was trained on.

    Attributes:
        settings: How it was trained.
        epochs: How many were run.
        loss: Mean loss of the last one.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        references: torch.Tensor,
        benign: int,
        settings: Settings,
        *,
        epochs: int,
        loss: float,
    ) -> None:
        self._network, self._references, self._benign = network, references, benign
        self.settings, self.epochs, self.loss = settings, epochs, loss

    @classmethod
    def train(
        cls,
        benign: Sequence[NDArray[np.uint8]],
        stego: Sequence[NDArray[np.uint8]],
        settings: Settings = PUBLISHED,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> XRay:
        """Train a detector.

        Args:
            benign: Images of clean networks, at least two.
            stego: Images of networks that hold a payload, at least two.
            settings: How.
            seed: Of the weights and of the order of triplets.
            device: Torch's name of where to compute.

        Returns:
            The detector.

        Raises:
            ValueError: There are too few images, or one has another size.
        """
        import torch

        if min(len(benign), len(stego)) < 2:
            raise ValueError("a class needs two examples, to be like each other")
        devices = [device] if device.startswith("cuda") else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            with torch.device(device):
                network = _network(settings)
            images = _input([*benign, *stego], settings, device)
            epochs, loss = _fit(network, images, len(benign), settings, seed)
        network.eval()
        references = _embed(network, images, settings)
        return cls(network, references, len(benign), settings, epochs=epochs, loss=loss)

    @classmethod
    def bundled(cls, *, device: str = "cpu") -> XRay:
        """Train a detector on the images that come with the package, in seconds.

        As published: the small network, and the same three networks, clean and with a
        payload. It is the same on each call.

        Raises:
            ValueError: The file of images is not the one this version came with.
        """
        data = SUPPORT.read_bytes()
        if sha256(data).hexdigest() != SUPPORT_SHA256:
            raise ValueError(f"{SUPPORT.name} is not the file it should be")
        clean, stego = np.load(BytesIO(data), allow_pickle=False)
        return cls.train(list(clean), list(stego), device=device)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Return (n, dimensions) embeddings of images."""
        device = str(self._references.device)
        return _embed(
            self._network, _input(images, self.settings, device), self.settings
        )

    def classify(
        self,
        images: Sequence[NDArray[np.uint8]],
        classifier: Literal["centroid", "nearest"] = "centroid",
    ) -> NDArray[np.bool_]:
        """Return for each image whether it is nearer to those that hold a payload.

        Args:
            images: Of networks.
            classifier: Nearer to the mean of a class ("centroid"), or to any one of it
                ("nearest", 1-NN). A tie is decided for a clean network.
        """
        return self.decide(self.embed(images), classifier)

    def decide(
        self, embeddings: torch.Tensor, classifier: Literal["centroid", "nearest"]
    ) -> NDArray[np.bool_]:
        """Return the same of embeddings."""
        to_clean, to_stego = self._distances(embeddings, classifier)
        decided: NDArray[np.bool_] = (to_stego < to_clean).cpu().numpy()
        return decided

    def scores(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Return for each image how much nearer it is to the mean of one class.

        Returns:
            From 0, where the mean of the clean ones is, to 1, where that of those with
            a payload is; one half between them. This is ours: the published detector
            has no score.
        """
        to_clean, to_stego = self._distances(self.embed(images), "centroid")
        both = (to_clean + to_stego).clamp(min=1e-30)
        found: NDArray[np.float64] = (to_clean / both).double().cpu().numpy()
        return found

    def _distances(
        self, embeddings: torch.Tensor, classifier: Literal["centroid", "nearest"]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return how far embeddings are from either class."""
        import torch

        clean, stego = self._references.split_with_sizes(
            [self._benign, len(self._references) - self._benign]
        )
        if classifier == "centroid":
            clean, stego = clean.mean(0, keepdim=True), stego.mean(0, keepdim=True)
        exact = "donot_use_mm_for_euclid_dist"
        to_clean = torch.cdist(embeddings, clean, compute_mode=exact).amin(1)
        to_stego = torch.cdist(embeddings, stego, compute_mode=exact).amin(1)
        return to_clean, to_stego


def _network(settings: Settings) -> torch.nn.Module:
    """Return the network, with new weights."""
    from safemodel._detector.xray_networks import one_shot, steganalysis

    if settings.network == "srnet":
        return steganalysis(batch_norm=settings.batch_norm)
    return one_shot(dropout=settings.dropout, centred=settings.centred)


def _input(
    images: Sequence[NDArray[np.uint8]], settings: Settings, device: str
) -> torch.Tensor:
    """Return (n, 1, side, side) of float32 from 0 to 1."""
    import torch

    stacked = np.stack(images)
    if stacked.shape[1:] != (settings.side, settings.side):
        raise ValueError(f"images of {settings.side} × {settings.side}, please")
    return torch.from_numpy(stacked).to(device)[:, None].float().div(255)


def _embed(
    network: torch.nn.Module, images: torch.Tensor, settings: Settings
) -> torch.Tensor:
    """Return embeddings of prepared images, without a trace for gradients."""
    import torch

    with torch.no_grad():
        parts = [network(part) for part in torch.split(images, 128)]
        return _scaled(torch.cat(parts), settings)


def _scaled(embeddings: torch.Tensor, settings: Settings) -> torch.Tensor:
    """Return embeddings of length 1 where that was asked for."""
    import torch

    if settings.normalise:
        return torch.nn.functional.normalize(embeddings)
    return embeddings


def _fit(
    network: torch.nn.Module,
    images: torch.Tensor,
    benign: int,
    settings: Settings,
    seed: int,
) -> tuple[int, float]:
    """Train in place; return the epochs that were run, and the last mean loss."""
    import torch

    order = np.random.default_rng(seed)
    rows = order.permutation(triplets(benign, len(images) - benign))
    batches = [
        _indices(rows[at : at + settings.batch], images.device)
        for at in range(0, len(rows), settings.batch)
    ]
    fused: dict[str, Any] = {"fused": True} if images.is_cuda else {}
    adam = torch.optim.Adam(network.parameters(), RATE, eps=1e-7, **fused)
    network.train()
    epoch, mean = 0, float("nan")
    while epoch < EPOCHS[settings.mode]:
        epoch += 1
        total = torch.zeros((), device=images.device)
        for used, which in batches:
            losses = _losses(_scaled(network(images[used]), settings)[which])
            adam.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
            adam.step()
            total += losses.detach().sum()
        mean = float(total) / len(rows)
        if settings.mode == "ub" and ENOUGH[0] <= mean <= ENOUGH[1]:
            break
    return epoch, mean


def _indices(
    rows: NDArray[np.int64], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images that a batch needs, and where in them its triplets are.

    An image is in several triplets; it goes through the network once a step.
    """
    import torch

    used, which = np.unique(rows, return_inverse=True)
    where = which.reshape(rows.shape)
    return torch.from_numpy(used).to(device), torch.from_numpy(where).to(device)


def _losses(embeddings: torch.Tensor) -> torch.Tensor:
    """Return the loss of each triplet, of (n, 3, dimensions)."""
    anchor, positive, negative = embeddings.unbind(1)
    near = (anchor - positive).square().sum(1)
    far = (anchor - negative).square().sum(1)
    return (near - far + MARGIN).relu()
