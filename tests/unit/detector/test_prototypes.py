"""The judge of prototypes: what it says, how it is adapted, kept and read."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save, save_file

from safemodel._detector import spread_score
from safemodel._detector.distributions import probability
from safemodel._detector.evidence import Ledger, Outcome
from safemodel._detector.prototype_file import read, write
from safemodel._detector.prototypes import (
    CLASSES,
    DIMENSIONS,
    FORM,
    Arrays,
    Prototypes,
    adapted,
)
from safemodel._detector.smooth import Uniformity
from safemodel._detector.statistics import Statistics, examine
from safemodel._detector.traits import (
    BOUND,
    CONCLUSIVE,
    KINDS,
    NAMES,
    even,
    kind_of,
    replaced,
    traits_of,
)
from safemodel.detection import Detector
from safemodel.errors import (
    MalformedFileError,
    SafeModelError,
    UnsupportedFormatError,
)
from tests.unit.detector.helpers_detector import (
    embed,
    generator,
    items,
    program,
    trained,
)


def arrays(**changes):
    """Return what a small judge knows: each class has an axis, or shares the last."""
    embedding = np.zeros((DIMENSIONS, len(NAMES)))
    for at in range(len(NAMES)):
        embedding[min(at // 4, DIMENSIONS - 1), at] = 0.4
    other = np.zeros((len(CLASSES), DIMENSIONS))
    for at in range(len(CLASSES)):
        other[at, at] = 3.0
    return Arrays(**{
        "embedding": embedding, "clean": np.zeros(DIMENSIONS), "other": other,
        "thresholds": np.zeros(len(KINDS)), "rates": np.array([0.001, 0.01, 0.02]),
        "way": np.array([0.5]), "own": np.zeros((2, DIMENSIONS)), **changes,
    })  # fmt: skip


def told(uniformity=None, log_p=0.0, family="structured-file"):
    """Return statistics of a file, of which one test says something."""
    ledger = Ledger()
    ledger.add(Outcome(family, "test", "what", log_p, tensor="layer"))
    return Statistics(ledger, (), uniformity or {}, ())


def shares(share, expected=60.0):
    """Return uniformity of a float32 file, the same for all numbers of bits."""
    return {("float32", bits): Uniformity(share * expected, expected)
            for bits in (15, 16, 18, 20)}  # fmt: skip


def test_traits_are_bounded_and_say_nothing_of_a_clean_file(draws):
    """Zeros for a file in which nothing is odd; never above the bound."""
    words = trained(generator(draws), 50_000).view(np.uint32)
    clean = traits_of(examine(items({"a": words})))
    assert clean.shape == (len(NAMES),)
    assert clean.max() < 4
    sure = traits_of(told(shares(0.0), -1e9))
    assert sure.max() == BOUND
    assert sure.min() >= 0


def test_traits_do_not_grow_with_the_number_of_tensors(rand):
    """Forty clean tensors are no more suspicious than four."""
    random = generator(rand)
    tensors = {f"{at}": trained(random, 5000).view(np.uint32) for at in range(40)}
    assert traits_of(examine(items(tensors))).max() < 4


def test_a_share_tells_replaced_from_clean():
    """It rises as the share falls, and does not go on where it says no more."""
    found = [even(Uniformity(60.0 * share, 60.0), 0.12) for share in (2, 1, 0.5, 0, -1)]
    assert found[0] == found[1] < found[2] < found[3] == found[4]
    assert found[1] < 0 < found[3]


def test_chance_leaves_as_much_in_small_files_as_in_large_ones():
    """Three standard deviations of clean files are as much evidence in both."""
    found = []
    for apart in (4.0, 6.0):
        deviation = (1 / apart**2 + 0.1**2) ** 0.5
        share = 1 - 3 * deviation
        found.append(even(Uniformity(share * apart**2, apart**2), 0.1))
    assert found == [pytest.approx(4.5)] * 2
    unlike_both = Uniformity(0.6 * 900.0, 900.0)
    assert even(unlike_both, 0.1) < 0


def test_numbers_of_bits_that_contradict_each_other_say_little():
    """Three replaced bits, of which two were not, are a bad fit."""
    clean, gone = Uniformity(60.0, 60.0), Uniformity(0.0, 240.0)
    alone, bits = replaced({3: gone}, 0.12)
    assert (alone, bits) == (9.0, 3)
    assert replaced({2: clean, 3: gone}, 0.12)[0] < 0
    assert replaced({2: Uniformity(0.0, 1.0)}, 0.12) == (0.0, 0)


def test_kinds_are_told_by_dtype_and_bits():
    """Float32 that was rounded is another kind than float32."""
    assert [kind_of("float32", 16), kind_of("float32", 5), kind_of("float32", 5, 0),
            kind_of("bfloat16", 2), kind_of("qint8", 1), kind_of("quint4x2", 1),
            kind_of("float64", 46)] == ["wide", "rounded", "wide", "bfloat16",
                                        "integer", "packed", "wide"]  # fmt: skip


def test_a_p_value_that_holds_is_never_outvoted():
    """Below its rate a file is suspicious, whatever the prototypes say; above, not."""
    judge = Prototypes(arrays(thresholds=np.full(len(KINDS), 1e5)))
    found = judge.judge(told(log_p=-30.0))
    assert found.suspicious
    assert found.evidence[0].p_value <= 0.001
    assert found.tensors["layer"] > 0.5
    assert not judge.judge(told(log_p=-9.0)).suspicious


@pytest.mark.parametrize("family", ["smooth-file", "pairs-tensor", "spread"])
def test_a_p_value_that_rests_on_a_model_is_not_enough(family):
    """A density that was fitted badly makes such p-values tiny (ADR 0028)."""
    judge = Prototypes(arrays(thresholds=np.full(len(KINDS), 1e5)))
    found = judge.judge(told(log_p=-300.0, family=family))
    assert not found.suspicious
    assert found.evidence == ()
    assert family not in CONCLUSIVE


def test_what_is_too_uniform_is_found_by_prototypes():
    """A file without slope, of a kind that has a threshold of its own."""
    judge = Prototypes(arrays())
    found = judge.judge(told(shares(0.0)))
    assert found.suspicious
    first = found.evidence[0]
    assert (first.test, first.bits) == ("prototypes", 20)
    assert first.p_value == 0.01
    assert not judge.judge(told(shares(1.0))).suspicious
    high = np.where(np.array(KINDS) == "wide", 1e5, 0.0)
    assert not Prototypes(arrays(thresholds=high)).judge(told(shares(0.0))).suspicious


def test_a_file_of_several_kinds_has_the_highest_threshold():
    """Integers that are easy do not lower the bar for floats beside them."""
    judge = Prototypes(arrays(thresholds=np.arange(len(KINDS)) * 1.0))
    assert judge.limit(("wide", "integer")) == 4.0
    assert judge.limit(()) == 0.0


def test_more_evidence_is_never_less(rand):
    """The score does not fall as shares fall and p-values do."""
    judge = Prototypes(arrays())
    scores = [judge.judge(told(shares(1 - step / 10), -0.5 * step)).score
              for step in range(11)]  # fmt: skip
    assert scores == sorted(scores)
    assert scores[0] < 0.5 < scores[-1]


def test_adapting_learns_a_way_and_keeps_the_rest():
    """Files too weak for the rest are found, at a rate of its own; others stay so."""
    judge = Prototypes(arrays(thresholds=np.full(len(KINDS), 30.0)))
    clean, weak = told(shares(1.0)), told(shares(0.25))
    assert not judge.judge(weak).suspicious
    own = adapted(judge, [clean] * 3, [weak] * 3)
    assert own.adapted
    assert own.id != judge.id
    assert own.judge(weak).suspicious
    assert own.judge(weak).evidence[0].p_value == 0.02
    assert not own.judge(clean).suspicious
    assert own.judge(told(log_p=-30.0)).suspicious
    assert own.false_positive_rate == pytest.approx(0.031 + spread_score.RATE)
    assert judge.false_positive_rate == pytest.approx(0.011 + spread_score.RATE)


def test_files_that_no_test_tells_apart_teach_nothing():
    """Nor do files of one sort only."""
    judge, clean = Prototypes(arrays()), told(shares(1.0))
    with pytest.raises(ValueError, match="nothing to learn"):
        adapted(judge, [clean], [clean])
    with pytest.raises(ValueError, match="both sorts"):
        adapted(judge, [clean], [])


def test_what_is_written_is_read_again(tmp_path):
    """The same judge, by its id; and nothing else is left in the folder."""
    judge = Prototypes(arrays(own=np.eye(2, DIMENSIONS)))
    path = tmp_path / "mine.safetensors"
    Detector(judge).save(path)
    again = Detector.load(path)
    assert again.id == judge.id
    assert again.false_positive_rate == judge.false_positive_rate
    assert Detector.load(path.read_bytes()).id == judge.id
    assert [one.name for one in tmp_path.iterdir()] == ["mine.safetensors"]


def test_an_id_is_a_digest_of_all_that_a_judge_knows():
    """Every array changes it."""
    known = arrays()
    ids = {Prototypes(known).id}
    for name, value in known._asdict().items():
        ids.add(Prototypes(known._replace(**{name: value + 1e-3})).id)
    assert len(ids) == 1 + len(known)


def hostile():
    """Yield contents of files that are no detectors, and why."""
    known = {**arrays()._asdict(), "form": np.frombuffer(FORM, np.uint8)}
    for name, value in known.items():
        rest = {one: other for one, other in known.items() if one != name}
        yield f"without {name}", rest
        yield f"{name} longer", {**rest, name: np.repeat(value, 2, 0)}
        yield f"{name} of another type", {**rest, name: value.astype(np.float32)}
        if name != "form":
            for number in (np.nan, np.inf, 1e9):
                odd = value.copy()
                odd.reshape(-1)[0] = number
                yield f"{name} with {number}", {**rest, name: odd}
    yield "more", {**known, "more": np.zeros(3)}
    yield "negative", {**known, "embedding": known["embedding"] - 1}
    yield "rates", {**known, "rates": np.zeros(3)}
    yield "many", {**known, "rates": np.full(3, 0.5)}
    yield "way", {**known, "way": np.array([-1.0])}


@pytest.mark.parametrize("why", [why for why, _ in hostile()])
def test_a_file_that_is_no_detector_is_refused(why):
    """By one of our errors, whatever is wrong with it."""
    (content,) = (content for name, content in hostile() if name == why)
    with pytest.raises(MalformedFileError):
        read(save({name: np.ascontiguousarray(one) for name, one in content.items()}))


def test_other_traits_are_another_version(tmp_path):
    """A detector that was trained on other traits would judge by the wrong ones."""
    path = tmp_path / "old.safetensors"
    write(Prototypes(arrays()), path)
    content = load_file(path)
    content["form"] = content["form"] ^ 1
    save_file(content, path)
    with pytest.raises(UnsupportedFormatError):
        Detector.load(path)


def test_a_pickle_is_no_detector(tmp_path):
    """Even one that holds the right arrays."""
    path = tmp_path / "mine.pt"
    known = {**arrays()._asdict(), "form": np.frombuffer(FORM, np.uint8).copy()}
    torch.save({name: torch.from_numpy(one) for name, one in known.items()}, path)
    with pytest.raises(MalformedFileError, match="safetensors"):
        Detector.load(path)


def test_cut_and_changed_files_give_our_errors_or_another_id(tmp_path, rand):
    """A file cut anywhere is refused; one with a changed byte is refused or another."""
    path = tmp_path / "mine.safetensors"
    judge = Prototypes(arrays())
    write(judge, path)
    data = path.read_bytes()
    for _ in range(60):
        at = rand.randrange(len(data))
        with pytest.raises(SafeModelError):
            read(data[:at])
        changed = bytearray(data)
        changed[at] ^= 1 << rand.randrange(8)
        try:
            found = read(bytes(changed))
        except SafeModelError:
            continue
        same = all(
            one.tobytes() == other.tobytes()
            for one, other in zip(found.arrays, judge.arrays, strict=True)
        )
        assert same == (found.id == judge.id)


def test_only_judges_of_prototypes_can_be_saved(tmp_path):
    """Others have no file."""
    from safemodel._detector.judging import PValues

    with pytest.raises(TypeError):
        Detector(PValues()).save(tmp_path / "x.safetensors")


def test_the_bundled_detector_is_pinned_and_small():
    """At most 2 MB, of the digest in the code, and adapted to nobody."""
    from safemodel._detector import prototype_file

    assert prototype_file.BUNDLED.stat().st_size < 2 << 20
    judge = prototype_file.bundled()
    assert not judge.adapted
    assert judge.false_positive_rate <= 0.02
    assert Detector.bundled().id == judge.id


def test_a_changed_bundled_file_is_refused(tmp_path, monkeypatch):
    """One bit is enough."""
    from safemodel._detector import prototype_file

    data = bytearray(prototype_file.BUNDLED.read_bytes())
    data[-1] ^= 1
    path = tmp_path / "prototypes.safetensors"
    path.write_bytes(data)
    monkeypatch.setattr(prototype_file, "BUNDLED", path)
    with pytest.raises(MalformedFileError):
        prototype_file.bundled()


def test_three_and_three_files_are_enough(tmp_path, draws):
    """Two bits of a program, in files of one's own: all told apart from clean ones."""
    random = generator(draws)
    clean = [{"a": trained(random, 30_000)} for _ in range(5)]
    dirty = [{"a": embed(one["a"].view(np.uint32), program(9000, 4000), 2).view("f4")}
             for one in clean]  # fmt: skip
    detector = Detector.adapt(benign=clean[:3], stego=dirty[:3])
    statistics = [examine(items({"a": one["a"].view(np.uint32)}))
                  for one in (*clean[3:], *dirty[3:])]  # fmt: skip
    found = [detector.judge(one).suspicious for one in statistics]
    assert found == [False, False, True, True]
    assert probability(0.0) >= detector.false_positive_rate > 0.01
