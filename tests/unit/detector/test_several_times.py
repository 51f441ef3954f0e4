"""Numbers that are there several times say nothing new, and are no evidence.

Sines and cosines with their signs, kernels that are symmetric, target networks beside
the networks they follow, averages, copies: words that are equal, or but for the sign,
or but for their lowest bits, at other places.
"""

import numpy as np
import pytest

from safemodel._detector.evidence import Outcome
from safemodel._detector.layouts import layout_of
from safemodel._detector.repeats import of_piece
from safemodel._detector.statistics import examine
from safemodel._detector.structured import empty_sums, outcomes
from safemodel._detector.traits import CONCLUSIVE
from tests.unit.detector.helpers_detector import (
    embed,
    evidence,
    generator,
    items,
    names_of,
    program,
    trained,
)

F4 = np.float32
SMALL_AGENT = ((64, 8), (64, 64), (4, 64))
AGENT = ((400, 24), (300, 400), (1, 300))


def waves(length, windowed=True, rows=None):
    """The base of a Fourier transform, as convolutions that make spectra have it."""
    rows = length // 2 + 1 if rows is None else rows
    angles = 2 * np.pi / length * np.arange(rows)[:, None] * np.arange(length)
    window = np.hanning(length + 1)[:-1] if windowed else 1.0
    return {"real": np.cos(angles) * window, "imag": -np.sin(angles) * window}


def by_matrix(length):
    """The same from the transform of a unit matrix, and its inverse."""
    both = np.fft.fft(np.eye(length))[: length // 2 + 1]
    base = np.vstack((both.real, both.imag))
    return {"forward": base, "inverse": np.linalg.pinv(4 * base).T}


def rounded(length, dtype):
    """The base, as 16 bits hold it."""
    return {name: each.astype(dtype) for name, each in waves(length).items()}


def mel_filters(bins=1025, filters=80):
    """Triangles, mostly zeros."""
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), filters + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    at, left, top, right = (
        np.linspace(0, 8000, bins),
        *(edges[k : k + filters, None] for k in range(3)),
    )
    rising, falling = (at - left) / (top - left), (right - at) / (right - top)
    return {"mel": np.maximum(0, np.minimum(rising, falling))}


def cosines(length):
    """The base of a cosine transform, and products of two of them."""
    at = np.arange(length)
    base = np.cos(np.pi * (2 * at + 1) * at[:, None] / (2 * length))
    small = base[:24, :24]
    return {"base": base * np.sqrt(2 / length),
            "blocks": np.einsum("ij,kl->ikjl", small, small) / 12}  # fmt: skip


def wavelets(levels=9):
    """Orthogonal, and mostly zeros."""
    low = np.array([0.4829629131445341, 0.8365163037378079, 0.2241438680420134,
                    -0.1294095225512604])  # fmt: skip
    high, whole, size = low[::-1] * [1, -1, 1, -1], np.eye(2**levels), 2**levels
    while size >= 8:
        step = np.zeros((size, size))
        for row in range(size // 2):
            for k in range(4):
                step[row, (2 * row + k) % size] += low[k]
                step[size // 2 + row, (2 * row + k) % size] += high[k]
        whole[:size] = step @ whole[:size]
        size //= 2
    return {"wavelets": whole}


def positions(places=1024, width=256):
    """Positional encodings, and such of whole periods."""
    at = np.arange(places)[:, None]
    slow = np.exp(np.arange(0, width, 2) * (-np.log(10000.0) / width))
    whole = 2 * np.pi / places * np.arange(1, width // 2 + 1)
    rotary = np.concatenate((at * slow, at * slow), 1)
    return {
        "encoding": np.stack((np.sin(at * slow), np.cos(at * slow)), 2),
        "periods": np.concatenate((np.sin(at * whole), np.cos(at * whole)), 1),
        "rotary": np.cos(rotary),
    }


def relative(random):
    """Tables of relative positions, of windows of 7 x 7, once they are indexed."""
    place = np.stack(np.divmod(np.arange(49), 7))
    apart = place[:, :, None] - place[:, None] + 6
    tables = (trained(random, 169 * 12).reshape(169, 12) for _ in range(3))
    return {f"{at}": table[apart[0] * 13 + apart[1]]
            for at, table in enumerate(tables)}  # fmt: skip


def symmetric(random):
    """Kernels that are the same from all sides."""
    rings = trained(random, 64 * 64 * 3).reshape(64, 64, 3)
    return {"kernel": rings[:, :, [[0, 1, 0], [1, 2, 1], [0, 1, 0]]]}


def turned(random, sign):
    """Eight orientations of each kernel, some of them opposite."""
    kernels = trained(random, 64 * 48 * 9).reshape(64, 48, 3, 3)
    every = [np.rot90(kernels, quarter, (2, 3)) for quarter in range(4)]
    every += [one[..., ::-1] for one in every]
    return {"kernel": np.stack([one * sign**at for at, one in enumerate(every)], 1)}


def mirrored(random):
    """A matrix and its mirror image; one that is minus its transpose."""
    half = trained(random, 300 * 150).reshape(300, 150)
    skew = np.triu(trained(random, 300 * 300).reshape(300, 300), 1)
    return {"both": np.concatenate((half, -half[:, ::-1]), 1), "skew": skew - skew.T}


def networks(random, shapes, copies, number=1):
    """Networks beside exact copies, as agents have them that have just begun."""
    return {
        f"{name}.{at}.{which}": layer
        for which in range(number)
        for at, (outputs, inputs) in enumerate(shapes)
        for layer in (trained(random, outputs * inputs).reshape(outputs, inputs),)
        for name in range(copies)
    }  # fmt: skip


def followed(random, tau, moves, shapes=AGENT):
    """Networks that move or not, and targets that follow them."""
    found = {}
    for at, (outputs, inputs) in enumerate(shapes):
        now = trained(random, outputs * inputs).reshape(outputs, inputs)
        slow = now + F4(0.02) * random.standard_normal(now.shape).astype(F4)
        noise = random.standard_normal((2 * now.size,)).astype(F4) * F4(moves)
        noise *= random.random(noise.size) < 0.7
        for step in range(min(1000, int(20 / tau))):
            first = 7919 * step % now.size
            if moves:
                now = now + noise[first : first + now.size].reshape(now.shape)
            slow = slow * F4(1 - tau) + F4(tau) * now
        found |= {f"{at}.weight": now, f"target.{at}.weight": slow}
    return found


def checkpoints(random):
    """One after the other in one file, of which little has changed."""
    values, found = trained(random, 30_000), {}
    for at in range(6):
        some = random.random(values.size) < 0.02
        values = values + some * random.normal(0, 1e-4, values.size).astype(F4)
        found[f"{at}"] = values
    return found


def shuffled(random, copies=8, below=1, together=False):
    """The same numbers at other places, of either sign, their last bits changed."""
    values, found = trained(random, 20_000), {}
    for at in range(copies):
        words = random.permutation(values).view(np.uint32)
        words = words + random.integers(0, below, words.size, dtype=np.uint32)
        found[f"{at}"] = words.view(F4) * random.choice(
            np.array([-1, 1], F4), words.size
        )
    return {"all": np.concatenate(list(found.values()))} if together else found


def expanded(random):
    """Kernels of one channel, made to take three, in two ways."""
    one = trained(random, 64 * 147).reshape(64, 1, 147)
    weights = np.array([0.299, 0.587, 0.114], F4)[:, None]
    return {"mean": np.repeat(one, 3, 1) / F4(3), "grey": one * weights}


def rows(random):
    """Rows and single words that come again."""
    values = trained(random, 12_000)
    return {"rows": np.tile(values, 8), "words": np.repeat(values, 8)}


def orthogonal(random):
    """A matrix, its transpose, its opposite, and its rows backwards."""
    base = np.linalg.qr(random.standard_normal((256, 256)))[0].astype(F4)
    return {"a": base, "b": base.T, "c": -base, "d": base[::-1]}


def averaged(random):
    """A network and a slow average of it."""
    values = trained(random, 120_000)
    slow, noise = values, random.normal(0, 1e-5, 2 * values.size).astype(F4)
    for step in range(200):
        first = 7919 * step % values.size
        values = values + noise[first : first + values.size]
        slow = slow * F4(0.999) + F4(0.001) * values
    return {"model": values, "ema": slow}


KINDS = {
    "sines": lambda _: waves(512),
    "sines without a window": lambda _: waves(400, windowed=False),
    "few sines": lambda _: waves(64) | waves(128, windowed=False),
    "long sines": lambda _: waves(1024, rows=200),
    "sines by a matrix": lambda _: by_matrix(320),
    "sines of 16 bits": lambda _: rounded(256, np.float16),
    "mel filters": lambda _: mel_filters(),
    "cosines": lambda _: cosines(256),
    "wavelets": lambda _: wavelets(),
    "positions": lambda _: positions(),
    "relative positions": relative,
    "symmetric kernels": symmetric,
    "turned kernels": lambda r: turned(r, 1),
    "turned kernels, opposite": lambda r: turned(r, -1),
    "mirrored": mirrored,
    "target network": lambda r: networks(r, AGENT, 2),
    "three copies": lambda r: networks(r, AGENT, 4),
    "twin critics": lambda r: networks(r, ((256, 27), (256, 256), (1, 256)), 4, 2),
    "small copies": lambda r: networks(r, SMALL_AGENT, 6),
    "two small copies": lambda r: networks(r, SMALL_AGENT, 2, 3),
    **{f"target at rest, {tau}": lambda r, tau=tau: followed(r, tau, 0)
       for tau in (0.005, 0.01, 0.05, 0.5)},
    **{f"target that follows, {tau}": lambda r, tau=tau: followed(r, tau, 1e-5)
       for tau in (0.02, 0.05, 0.3)},
    "small target at rest": lambda r: followed(r, 0.05, 0, SMALL_AGENT),
    "average": averaged,
    "checkpoints": checkpoints,
    "shuffled": shuffled,
    "shuffled, last bits": lambda r: shuffled(r, below=3),
    "shuffled in one": lambda r: shuffled(r, together=True),
    "shuffled in one, last bits": lambda r: shuffled(r, below=30, together=True),
    "expanded kernels": expanded,
    "rows": rows,
    "orthogonal": orthogonal,
}  # fmt: skip


def as_words(tensors):
    """Return float32 words of arrays by name."""
    return {name: np.ascontiguousarray(each, F4).reshape(-1).view(np.uint32)
            for name, each in tensors.items()}  # fmt: skip


def conclusive(tensors):
    """Return what is evidence by itself; see ADR 0028."""
    return examine(items(tensors)).ledger.evidence(1e-3, CONCLUSIVE)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_there_several_times_are_no_evidence(kind, draws):
    """In one tensor, and in several of a file; of two draws, as chance has it."""
    random = generator(draws)
    assert () in (conclusive(as_words(KINDS[kind](random))) for _ in range(2))


@pytest.mark.parametrize("kind", ["sines", "three copies", "turned kernels", "shuffled",
                                  "target at rest, 0.05"])  # fmt: skip
@pytest.mark.parametrize("bits", [2, 8])
def test_a_program_among_them_is_found(kind, bits, draws):
    """In the low bits of all of them."""
    words = as_words(KINDS[kind](generator(draws)))
    payload = program(sum(each.size for each in words.values()) * bits // 8, 4096)
    done = 0
    for name, each in words.items():
        words[name] = embed(each, payload[done:], bits)
        done += each.size * bits // 8
    assert conclusive(words)


@pytest.mark.parametrize(
    ("dtype", "byte"), [("float32", 1), ("float64", 1), ("float64", 4)]
)
def test_a_program_above_the_lowest_byte_is_found(dtype, byte, draws):
    """Whose lowest byte is that of the weight."""
    words = trained(generator(draws), 100_000).astype(dtype)
    words = words.view(f"u{words.itemsize}")
    payload = np.frombuffer(program(words.size), np.uint8).astype(words.dtype)
    mask = words.dtype.type(0xFF << 8 * byte)
    words = (words & ~mask) | payload << words.dtype.type(8 * byte)
    found = {one.test for one in evidence({"a": (words, dtype, "weight")})}
    assert f"byte-{byte}" in found


def test_a_wide_table_is_no_evidence():
    """Sines of float64 have four more bytes; only the levels around 1 are equal."""
    tables = {name: (np.ascontiguousarray(each).reshape(-1).view(np.uint64), "float64",
                     "weight") for name, each in waves(256).items()}  # fmt: skip
    assert not {name for name in names_of(tables) if name.startswith("byte-")}


def test_what_octants_do_not_have_in_common_is_no_message(draws):
    """Counts of the second byte that are uneven in one octant only."""
    layout = layout_of("float32", 4)
    sums, random = empty_sums(layout), generator(draws)
    sums.octants[:] = random.poisson(100, sums.octants.shape)
    sums.close[:] = sums.octants[0].sum()

    def log_p():
        sums.lows[:] = sums.octants.sum(1)
        made = outcomes(sums, layout, "structured-file", {})
        return next(one.log_p for one in made if one.test == "byte-1")

    sums.octants[1, 3] *= 1 + random.integers(0, 2, 256)
    assert log_p() > -7
    sums.octants[1] = random.poisson(100, (8, 256)) * (1 + random.integers(0, 2, 256))
    assert log_p() < -100


@pytest.mark.parametrize(
    ("dtype", "bits"), [("float32", 8), ("float16", 4), ("bfloat16", 4)]
)
def test_low_bits_that_repeat_are_told_from_rows_with_other_signs(dtype, bits, draws):
    """A row and its opposite are the same weights; a message in others is not."""
    random = generator(draws)
    width = {"float32": 4}.get(dtype, 2)
    layout = layout_of(dtype, width)
    row = trained(random, 20_000).view(np.uint32) >> np.uint32(32 - 8 * width)
    row = row.astype(f"u{width}")
    opposite = row ^ row.dtype.type(1 << 8 * width - 1)
    other = random.permutation(row)
    keep = row.dtype.type((1 << 8 * width) - (1 << bits))
    tiled = (other & keep) | (row & ~keep)

    def found(words) -> Outcome:
        ends = np.arange(64, 20_000, 1000)
        places = np.concatenate((ends, ends + row.size)).astype(np.uint64)
        marks = np.tile(np.arange(ends.size) * 0x0F0F0F0F00 + 0xFFFF0000, 2)
        return of_piece(words, 0, marks.astype(np.uint64), places, "a", layout)

    assert found(np.concatenate((row, opposite))).log_p == 0
    assert found(np.concatenate((row, tiled))).log_p < -100


def test_a_copy_hides_nothing_in_the_tensors_behind_it(draws):
    """It was left out of what the file says, and so was all that came after it."""
    random = generator(draws)
    first = trained(random, 3000).view(np.uint32)
    tensors = {"a": first, "copy of a": first.copy()}
    data = program(60 * 250, 4096)
    for at in range(60):
        words = trained(random, 2000).view(np.uint32)
        tensors[f"t{at}"] = embed(words, data[250 * at : 250 * (at + 1)], 1)
    assert "bits" in names_of(tensors)
