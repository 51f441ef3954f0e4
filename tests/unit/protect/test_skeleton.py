"""What is left of a file without its tensors: encoding, bounds, and reading it back."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from safemodel._containers.source import open_source
from safemodel._protect.anatomy import Anatomy, Part, dissect
from safemodel._protect.encoding import deflated, inflated
from safemodel._protect.skeleton import (
    Packed,
    Place,
    PlainSource,
    Skeleton,
    lengths_of,
    take,
)
from safemodel.errors import (
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    TruncatedFileError,
)
from safemodel.limits import Limits
from tests.unit.protect.helpers_anatomy import (
    anatomy_of,
    pools_of,
    put_together,
    saved,
    skeleton_of,
)

MIB = 1 << 20
HEAD = 28
VALUE = {
    "a": torch.arange(5.0),
    "n": torch.arange(3),
    "b": torch.arange(7.0),
    "none": torch.zeros(0),
    "t": torch.ones(2, dtype=torch.bool),
}
DATA = saved(VALUE)


def encoded(
    size: int,
    inside: int,
    rows: list[tuple[int, int, int]],
    rest: bytes = b"",
    *,
    number: int | None = None,
    tail: bytes = b"",
) -> bytes:
    """Return a skeleton, written from the description and not from the code."""
    head = b"skeleton" + struct.pack("<QQI", size, inside, number or len(rows))
    body = b"".join(struct.pack("<BQQ", *row) for row in rows) + rest
    return head + zlib.compress(body) + tail


def test_the_encoding_is_as_described():
    """A file of ten bytes: two pools, a run of two tensors, a gap at either end."""
    data = b"0123456789"
    parts = [("a", "uint8", 1, 2, 3), ("b", "uint8", 1, 5, 1), ("c", "int8", 1, 6, 2)]
    anatomy = Anatomy(
        format="torch",
        size=10,
        parts=tuple(
            Part(
                name=name,
                dtype=dtype,
                itemsize=size,
                shape=(length,),
                start=start,
                length=length,
            )
            for name, dtype, size, start, length in parts
        ),
    )
    with open_source(data) as source:
        made = take(source, anatomy)
    expected = encoded(10, 6, [(0, 2, 4), (1, 0, 2)], b"0189")
    assert made[:HEAD] == expected[:HEAD]
    assert zlib.decompress(made[HEAD:]) == zlib.decompress(expected[HEAD:])
    skeleton = Skeleton.decode(expected)
    assert skeleton == Skeleton.decode(made)
    assert skeleton.places == (Place(0, 0, 2, 4), Place(1, 0, 6, 2))
    assert [(start, bytes(gap)) for start, gap in Packed(made).gaps()] == [
        (0, b"01"),
        (8, b"89"),
    ]
    assert lengths_of(skeleton.places) == (4, 2)


def test_places_of_a_pool_follow_each_other():
    """Wherever the tensors are in the file."""
    skeleton, anatomy = Skeleton.decode(skeleton_of(DATA)), anatomy_of(DATA)
    starts = {part.name: part.start for part in anatomy.parts}
    assert skeleton.places == (
        Place(0, 0, starts["a"], 20),
        Place(1, 0, starts["n"], 24),
        Place(0, 20, starts["b"], 28),
        Place(2, 0, starts["t"], 2),
    )
    assert lengths_of(skeleton.places) == tuple(pool.length for pool in anatomy.pools())
    assert skeleton.size == len(DATA)


def test_gaps_and_pools_are_the_file():
    """What `restore` writes: every byte once, in two ways."""
    skeleton, whole = Skeleton.decode(skeleton_of(DATA)), bytearray(len(DATA))
    pools = pools_of(DATA, anatomy_of(DATA))
    written = 0
    for place in skeleton.places:
        piece = pools[place.pool][place.at : place.at + place.length]
        whole[place.start : place.start + place.length] = piece
        written += place.length
    for start, gap in Packed(skeleton_of(DATA)).gaps():
        whole[start : start + len(gap)] = gap
        written += len(gap)
    assert (bytes(whole), written) == (DATA, len(DATA))


def test_every_span_reads_as_the_file_does(rand):
    """One that begins or ends at any border, or lies within a tensor, or is empty."""
    source = put_together(DATA)
    borders = {0, len(DATA)}
    for part in anatomy_of(DATA).parts:
        for edge in (part.start, part.start + part.length):
            borders |= {edge - 1, edge, edge + 1}
    spans = [(a, b) for a in borders for b in borders if a <= b]
    spans += [sorted(rand.choices(range(len(DATA) + 1), k=2)) for _ in range(300)]
    for start, end in spans:
        target = bytearray(end - start)
        source.read_into(start, memoryview(target))
        read = source.read(start, end - start)
        view = source.view(start, end - start, ahead=5)
        assert bytes(target) == read == view == DATA[start:end], (start, end)
        assert view.readonly


def test_nothing_behind_the_end_is_read():
    """By whichever way."""
    source = put_together(DATA)
    for start, size in ((0, len(DATA) + 1), (len(DATA), 1), (1 << 62, 1 << 62)):
        with pytest.raises(TruncatedFileError):
            source.read(start, size)
        with pytest.raises(TruncatedFileError):
            source.view(start, size)
    with pytest.raises(TruncatedFileError):
        source.read_into(len(DATA) - 1, memoryview(bytearray(2)))
    with pytest.raises(ValueError, match="not a span"):
        source.read(-1, 1)


def test_two_threads_may_read_at_once():
    """As loading does with large storages."""
    source = put_together(DATA)
    spans = [(at, min(97, len(DATA) - at)) for at in range(0, len(DATA), 31)] * 20
    with ThreadPoolExecutor(2) as pool:
        read = list(pool.map(lambda span: source.read(*span), spans))
    assert read == [DATA[at : at + size] for at, size in spans]


def test_the_pools_have_to_be_those_of_the_skeleton():
    """One more, one less, or of another length: refused before anything is read."""
    skeleton = Skeleton.decode(skeleton_of(DATA))

    def never(*_: object) -> None:
        pytest.fail("a pool was read")

    right = list(lengths_of(skeleton.places))
    PlainSource(skeleton, right, never)
    PlainSource(skeleton, [*right, 0], never)  # a pool of empty tensors only
    for wrong in (right[:-1], [*right, 1], [right[0] + 1, *right[1:]], []):
        with pytest.raises(MalformedFileError, match="of two files"):
            PlainSource(skeleton, wrong, never)


def test_a_file_without_tensors_and_one_of_nothing_else():
    """Both ends of what a skeleton may be."""
    empty = saved({})
    assert put_together(empty).read(0, len(empty)) == empty
    data = encoded(4, 4, [(0, 0, 4)])
    skeleton = Skeleton.decode(data)
    assert (list(Packed(data).gaps()), lengths_of(skeleton.places)) == ([], (4,))
    source = PlainSource(skeleton, [4], lambda _, at, view: view.__setitem__(
        slice(None), b"abcd"[at : at + len(view)]
    ))  # fmt: skip
    assert source.read(1, 2) == b"bc"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"skeletoN" + encoded(0, 0, [])[8:], "not the skeleton"),
        (encoded(1, 2, [(0, 0, 2)]), "larger than its file"),
        (encoded(1 << 63, (1 << 63) - 1, [(0, 0, (1 << 63) - 1)], b"x"), "larger than"),
        (encoded(4, 4, [(0, 0, 0), (0, 0, 4)]), "no bytes"),
        (encoded(4, 4, [(0, 0, 2), (0, 0, 2)]), "in two places"),
        (encoded(4, 4, [(0, 1, 4)]), "behind the end"),
        (encoded(4, 4, [(0, (1 << 64) - 1, 4)]), "behind the end"),
        (encoded(4, 4, [(0, 0, 3)]), "differ in number"),
        (encoded(4, 3, [(0, 0, 3), (1, 0, 1)], b"x"), "differ in number"),
        (encoded(4, 2, [(0, 0, 2)], b"xyz"), "inflate to"),
        (encoded(4, 2, [(0, 0, 2)], b"x"), "inflate to"),
        (encoded(4, 2, [(0, 0, 2)], b"xy", tail=b"z"), "inflate to"),
        (encoded(4, 2, [(0, 0, 2)], b"xy")[:-1], "inflate to"),
        (encoded(4, 2, [(0, 0, 2)], b"xy")[:HEAD] + b"no zlib", "broken"),
        (encoded(4, 2, [(0, 0, 2)], b"xy")[: HEAD - 1], "a field of 4 bytes"),
        (b"", "a field of 8 bytes"),
    ],
)
def test_what_take_never_writes_is_malformed(data, message):
    """Each field, wrong in one way."""
    with pytest.raises(MalformedFileError, match=message):
        Skeleton.decode(data)


def test_both_sides_of_the_limits():
    """On writing and on reading: bytes that are no tensor, and places."""
    rest = len(DATA) - sum(part.length for part in anatomy_of(DATA).parts)
    data = skeleton_of(DATA)
    fits = Limits(max_header_bytes=rest, max_tensors=5)
    Skeleton.decode(data, fits)
    with open_source(DATA) as source:
        anatomy = dissect(source)
        assert take(source, anatomy, limits=fits) == data
        for limits, requested in (
            (Limits(max_header_bytes=rest - 1), rest),
            (Limits(max_tensors=3), 4),
        ):
            for fails in (
                lambda limits=limits: take(source, anatomy, limits=limits),
                lambda limits=limits: Skeleton.decode(data, limits),
            ):
                with pytest.raises(LimitExceededError) as caught:
                    fails()
                assert caught.value.requested == requested


@pytest.mark.parametrize("size", [0, 20_000_000])
def test_a_bomb_is_not_inflated_beyond_what_is_announced(size):
    """128 MiB of zeros in 128 KiB of zlib, announced as less."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(128)) + packer.flush()
    data = b"skeleton" + struct.pack("<QQI", size, 0, 0) + bomb
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFileError, match="does not inflate"):
            Skeleton.decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * size + 4 * MIB


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
@pytest.mark.parametrize("fill", ["zeros", "noise"])
def test_what_is_inflated_piece_by_piece_is_whole(rand, size, fill):
    """Whether a piece of zlib says more than fits into a piece of text, or less."""
    text = bytes(size) if fill == "zeros" else rand.randbytes(size)
    data = deflated(text)
    assert inflated(data, size) == text
    assert inflated(memoryview(data), size) == text
    for odd, length in (
        (data, size + 1),
        (data, max(size - 1, 0) if size else 1),
        (data + b"\0", size),
        (data[:-1], size),
        (b"", size),
    ):
        with pytest.raises(MalformedFileError, match="does not inflate"):
            inflated(odd, length)


def test_a_file_that_gets_shorter_meanwhile_is_noticed():
    """Between `dissect` and `take`."""
    with open_source(DATA[:-1]) as source, pytest.raises(TruncatedFileError):
        take(source, anatomy_of(DATA))


def test_mutants_of_a_skeleton_raise_nothing_but_our_errors(rand):
    """And one that decodes has places that fit, and gaps for all other bytes."""
    head, body = skeleton_of(DATA)[:HEAD], zlib.decompress(skeleton_of(DATA)[HEAD:])
    opened = 0
    for _ in range(4_000):
        mutant = bytearray(head + body[: rand.choice((80, len(body)))])
        for _ in range(rand.choice((1, 1, 2, 3))):
            at = rand.randrange(rand.choice((HEAD, HEAD + 68, len(mutant))))
            mutant[at] = rand.choice((0, 1, 255, mutant[at] ^ 1, rand.randrange(256)))
        packed = zlib.compress(bytes(mutant[HEAD:]), 1)
        if rand.random() < 0.2:
            packed = packed[: rand.randrange(len(packed))]
        data = bytes(mutant[:HEAD]) + packed
        try:
            Skeleton.decode(data)
        except SafeModelError:
            continue
        opened += 1
        check_consistent(data)
    assert opened > 100


def test_places_and_gaps_come_in_pieces(rand):
    """More of both than are inflated at a time; what is cut is noticed at the end."""
    lengths = [rand.randrange(1, 200) for _ in range(100_000)]
    rest = rand.randbytes(len(lengths) * 30)
    size, inside = sum(lengths) + len(rest), sum(lengths)
    places = [(0, 30, length) for length in lengths]
    data = encoded(size, inside, places, rest)
    assert bytes(Skeleton.decode(data).rest) == rest
    pieces = list(Packed(data).gaps())
    assert b"".join(piece for _, piece in pieces) == rest
    assert len(pieces) > len(lengths)
    check_consistent(data)
    short = Packed(encoded(size, inside, places, rest[:-1]))
    with pytest.raises(MalformedFileError, match="does not inflate"):
        list(short.gaps())
    with pytest.raises(MalformedFileError, match="does not inflate"):
        Packed(data[:HEAD] + zlib.compress(b"short"))


def check_consistent(data: bytes) -> None:
    """Assert that places and gaps make up the file, without an overlap."""
    skeleton = Packed(data)
    spans = [(place.start, place.length) for place in skeleton.places]
    spans += [(start, len(gap)) for start, gap in skeleton.gaps()]
    end = 0
    for start, length in sorted(spans):
        assert (start, length > 0) == (end, True)
        end += length
    assert end == skeleton.size


def test_what_was_sealed_is_not_shown():
    """Neither names nor bytes."""
    skeleton = Skeleton.decode(skeleton_of(DATA))
    assert repr(skeleton).startswith("<Skeleton of ")
    assert "data.pkl" not in repr(skeleton)


def test_a_skeleton_takes_a_fraction_of_what_it_stands_for():
    """Two thousand small tensors, of which each has headers, padding and a name."""
    data = saved({f"layer.{at}": torch.full((300,), float(at)) for at in range(2_000)})
    inside = sum(part.length for part in anatomy_of(data).parts)
    assert inside == 2_000 * 1_200
    assert len(skeleton_of(data)) < (len(data) - inside) / 4
