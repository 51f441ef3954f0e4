"""A short run of the mutation loop; `python tests/fuzz/run.py` is the long one."""

from __future__ import annotations

from safemodel import safe_load
from safemodel._containers.sniff import Format
from safemodel.scanning import inspect_file
from tests.fuzz.corpus import build_corpus, index_of_shards, shards, split_opcodes
from tests.fuzz.mutate import mutant
from tests.fuzz.run import fuzz, try_one

COUNT = 1_500


def test_mutants_raise_nothing_but_our_errors(rand):
    """1,500 mutants of vectors and checkpoints: no foreign error, crash or hang."""
    assert not fuzz(COUNT, rand.randrange(1 << 32))


def test_a_mutant_is_named_by_two_numbers():
    """The same seed and index make the same bytes, another index makes others."""
    seeds = build_corpus()
    first = [mutant(seeds, 7, index) for index in range(50)]

    assert first == [mutant(seeds, 7, index) for index in range(50)]
    assert len(set(first)) > 40


def test_opcodes_put_together_are_the_pickle():
    """Splitting a pickle without frames loses nothing."""
    content = b"\x80\x02}X\x01\x00\x00\x00aK\x01s."
    parts = split_opcodes(content)

    assert b"".join(parts) == content
    assert len(parts) == 6


def test_the_loop_sees_an_ordinary_file_as_no_failure():
    """What loads in both modes is no failure, nor is plain noise."""
    assert not try_one(b"\x80\x02}.")
    assert not try_one(bytes(range(100)))


def test_the_corpus_has_a_checkpoint_of_every_format():
    """Every writer: what is mutated opens before it is mutated."""
    generated = [seed for seed in build_corpus() if seed.generated]
    formats = {inspect_file(seed.content).format for seed in generated}

    assert formats == {
        kind.value
        for kind in (
            *(Format.TORCH_ZIP, Format.TORCHSCRIPT, Format.NPZ, Format.ZIP_OF_MODELS),
            *(Format.PICKLE, Format.LEGACY, Format.TAR, Format.NPY),
            *(Format.SAFETENSORS, Format.SHARD_INDEX),
        )
    }
    pickles = [seed for seed in generated if seed.name.startswith("pickle-")]
    assert [seed.content[2:3] == b"\x95" for seed in pickles] == [False] * 4 + [
        True
    ] * 2
    for seed in generated:
        if seed.name != "index":
            safe_load(seed.content, weights_only=False)


def test_the_shards_of_the_corpus_open_by_their_index(tmp_path):
    """An index and its shards lie in a folder; both are mutated."""
    for name, content in {"index.json": index_of_shards(), **shards()}.items():
        (tmp_path / name).write_bytes(content)

    assert safe_load(tmp_path / "index.json").keys() == {"a", "b"}
    assert not try_one(index_of_shards())
