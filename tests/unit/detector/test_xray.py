"""The published few-shot detector, at the smallest size that shows each rule."""

import numpy as np
import pytest
import torch

from safemodel._detector import xray
from safemodel._detector.xray import Settings, XRay, triplets
from safemodel._detector.xray_networks import FixedNorm, one_shot, steganalysis
from safemodel.evaluation import stego


@pytest.fixture
def small(monkeypatch):
    """Put a network of one layer in the place of the large ones, on 4 × 4 pixels."""
    monkeypatch.setattr(Settings, "side", 4)

    def layer(_):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 64))

    monkeypatch.setattr(xray, "_network", layer)


def shades(*levels):
    """Return images of one gray level each."""
    return [np.full((4, 4), level, np.uint8) for level in levels]


def parameters(module):
    """Return how many numbers a network learns."""
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_networks_have_as_many_parameters_as_published():
    """27,413,312; and 4,781,248 with the statistics of BatchNorm, which are fixed."""
    with torch.device("meta"):
        small, large = one_shot(), steganalysis(batch_norm=True)
        fixed = steganalysis()
    statistics = [b for name, b in large.named_buffers() if "running" in name]

    assert parameters(small) == 27_413_312
    assert parameters(large) + sum(b.numel() for b in statistics) == 4_781_248
    assert parameters(fixed) == parameters(large)


def test_the_embeddings_are_as_wide_as_published():
    """4,096 numbers of 100 × 100 pixels, and 512 of any even size."""
    with torch.device("meta"):
        assert one_shot()(torch.empty(1, 1, 100, 100)).shape == (1, 4096)
    assert steganalysis()(torch.rand(2, 1, 32, 32)).shape == (2, 512)


def test_a_fixed_norm_is_batch_norm_that_never_learned():
    """The same numbers as torch's, before it has seen a batch."""
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 3)
    norm = torch.nn.BatchNorm2d(5, eps=1e-3).eval()

    assert torch.allclose(FixedNorm(5)(x), norm(x))


def test_dropout_is_off_unless_asked_for():
    """No layer of it as published, four when it is switched on."""
    with torch.device("meta"):
        layers = [[*one_shot(dropout=on).modules()] for on in (False, True)]
    dropped = [sum(isinstance(m, torch.nn.Dropout) for m in found) for found in layers]

    assert dropped == [0, 4]


def test_three_and_three_make_the_eighteen_published_triplets():
    """Each pair of a class with each example of the other, once."""
    rows = triplets(3, 3)

    assert rows.shape == (18, 3)
    assert len({tuple(row) for row in rows.tolist()}) == 18
    assert all((a < 3) == (p < 3) != (n < 3) and a != p for a, p, n in rows)
    assert len(triplets(2, 2)) == 4


def test_the_loss_is_the_published_one():
    """max(0, |a-p|² - |a-n|² + 0.5), of each triplet."""
    a, p, n = torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    losses = xray._losses(torch.stack([torch.stack([a, p, n]), torch.stack([a, n, p])]))

    assert losses.tolist() == [0.0, 3.5]


def test_training_stops_within_the_published_bounds(small):
    """Like images lose the margin, 0.5, in the first epoch; dark and light lose less.

    What is below the lower bound is trained to the end: that is as published, too.
    """
    like = XRay.train(shades(9, 9), shades(9, 9), seed=1)
    apart = XRay.train(shades(0, 0), shades(255, 255), seed=1)
    short = XRay.train(
        shades(0, 0), shades(255, 255), Settings(mode="st", normalise=False), seed=1
    )

    assert (like.epochs, like.loss) == (1, 0.5)
    assert (apart.epochs, apart.loss < 0.1) == (100, True)
    assert short.epochs == 5


@pytest.mark.parametrize("classifier", ["centroid", "nearest"])
def test_dark_and_light_are_told_apart(small, classifier):
    """Images near those of a class are of it; the first two are clean."""
    detector = XRay.train(shades(0, 20, 40), shades(255, 235, 215), seed=3)

    found = detector.classify(shades(10, 30, 240, 250), classifier)

    assert found.tolist() == [False, False, True, True]


def test_the_classifiers_differ_where_a_class_is_spread(small):
    """Nearer to the mean of the clean ones, and nearer to one of the others."""
    detector = XRay.train(shades(100, 120), shades(0, 250), seed=3)
    image = shades(30)

    assert detector.classify(image, "nearest").tolist() == [True]
    assert detector.classify(image, "centroid").tolist() == [False]


def test_a_seed_decides_the_detector(small):
    """The same seed, the same embeddings; another one, others. No global state."""
    before = torch.random.get_rng_state()
    first, again, other = (
        XRay.train(shades(0, 9), shades(99, 200), seed=seed) for seed in (4, 4, 5)
    )
    image = shades(50)

    assert torch.equal(first.embed(image), again.embed(image))
    assert not torch.equal(first.embed(image), other.embed(image))
    assert torch.equal(before, torch.random.get_rng_state())


def test_embeddings_are_scaled_when_asked_for(small):
    """Length 1, and otherwise as they come."""
    lengths = [
        XRay.train(shades(0, 9), shades(99, 200), Settings(normalise=on), seed=4)
        .embed(shades(50, 90))
        .norm(dim=1)
        for on in (True, False)
    ]

    assert torch.allclose(lengths[0], torch.ones(2))
    assert not torch.allclose(lengths[1], torch.ones(2))


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"network": "yin"}, "network is"),
        ({"mode": "all"}, "mode is"),
        ({"batch_norm": True}, "has no BatchNorm"),
        ({"network": "srnet", "dropout": True}, "neither dropout"),
        ({"network": "srnet", "centred": True}, "neither dropout"),
    ],
)
def test_a_switch_that_a_network_lacks_is_refused(members, why):
    """Rather than ignored."""
    with pytest.raises(ValueError, match=why):
        Settings(**members)


def test_one_example_of_a_class_is_too_few(small):
    """There is no pair to make triplets of."""
    with pytest.raises(ValueError, match="two examples"):
        XRay.train(shades(1), shades(2, 3))


def test_an_image_of_another_size_is_refused(small):
    """Before anything is computed."""
    with pytest.raises(ValueError, match="4 × 4"):
        XRay.train([np.zeros((5, 5), np.uint8)] * 2, [np.zeros((5, 5), np.uint8)] * 2)


def test_other_support_images_are_refused(monkeypatch, tmp_path):
    """One changed byte, and nothing is trained."""
    changed = tmp_path / "xray_support.npy"
    changed.write_bytes(xray.SUPPORT.read_bytes()[:-1] + b"\x00")
    monkeypatch.setattr(xray, "SUPPORT", changed)

    with pytest.raises(ValueError, match="not the file it should be"):
        XRay.bundled()


def test_the_bundled_detector_sees_a_program_and_no_random_bytes():
    """In weights it was not trained on; at 8 bits, from which on it was published."""
    detector = XRay.bundled()
    rng = np.random.default_rng(0)
    clean = rng.normal(0, 0.02, 1_000_000).astype(np.float32)
    hidden = [
        stego.embed(clean, data, stego.Lsb(bits=8, fill=True))[0]
        for data in (stego.payload("program", 1_000_000), rng.bytes(1_000_000))
    ]
    images = [xray.image_of(w.view(np.uint32), 100) for w in (clean, *hidden)]

    assert detector.classify(images).tolist() == [False, True, False]
    assert detector.classify(images, "nearest").tolist() == [False, True, False]
