"""The check of a file: which names it may use, how, and what it is refused for."""

from __future__ import annotations

import struct
import time

import pytest

from safemodel._containers.records import Record
from safemodel._containers.source import open_source
from safemodel._graph.check import FileCheck
from safemodel._graph.composite_specs import ExtraSpec, OpaqueSpec, SequenceSpec
from safemodel._graph.specs import TensorSpec
from safemodel._graph.storages import StorageTable
from safemodel._unpickle.machine import unpickle
from safemodel._unpickle.nodes import Call, GlobalRef
from safemodel.errors import (
    ForbiddenCallError,
    ForbiddenGlobalError,
    LimitExceededError,
    MalformedFileError,
)
from safemodel.limits import DEFAULT_LIMITS, Limits
from safemodel.policy import SALVAGE, STRICT, Policy

PROTO = b"\x80\x04"


def text(value: str) -> bytes:
    """Return BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def named(dotted: str) -> bytes:
    """Return GLOBAL."""
    module, _, name = dotted.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def called(dotted: str, arguments: bytes = b")") -> bytes:
    """Return GLOBAL, arguments, REDUCE."""
    return named(dotted) + arguments + b"R"


def pickle(body: bytes) -> bytes:
    """Return a whole pickle."""
    return PROTO + body + b"."


class Checked:
    """One file under check, pickle by pickle."""

    def __init__(
        self, policy: Policy = STRICT, limits: Limits = DEFAULT_LIMITS, size: int = 0
    ) -> None:
        self.check = FileCheck(policy, limits, size)
        self.table = StorageTable(
            lambda key: Record(key, open_source(bytes(16)), 0, 16), record="here"
        )

    def add(self, body: bytes, record: str = "data.pkl", load=None) -> object:
        """Parse and check one more pickle; return its value."""
        return self.check.add_pickle(
            unpickle(pickle(body), limits=self.check.limits),
            record=record,
            persistent=self.table.resolve,
            storage=self.table.of_tensor,
            load_nested=load or (lambda data, _: data),
            memory_record=lambda data: Record("", open_source(data), 0, len(data)),
        )


def settled(body: bytes, policy: Policy = STRICT) -> object:
    """Return what the value of a pickle stands for."""
    checked = Checked(policy)
    root = checked.add(body)
    checked.check.finish(root)
    return root.value if isinstance(root, Call | GlobalRef) else root


def test_all_refused_globals_of_all_pickles_are_in_one_error():
    """In the order of the file, each once a pickle, with where it stands."""
    checked = Checked()
    checked.add(b"(" + named("os.system") + named("a.B") + named("os.system") + b"t")
    checked.add(b"(" + named("os.system") + called("c.d.E") + b"t", "constants.pkl")

    with pytest.raises(ForbiddenGlobalError) as caught:
        checked.check.finish(None)

    error = caught.value
    assert error.globals == (
        ("os", "system", "data.pkl", 3),
        ("a", "B", "data.pkl", 14),
        ("os", "system", "constants.pkl", 3),
        ("c.d", "E", "constants.pkl", 14),
    )
    assert (error.module, error.name) == ("os", "system")
    assert (error.record, error.position) == ("data.pkl", 3)
    assert error.__cause__ is None


def test_a_name_that_is_a_value_is_that_value():
    """A spec of torch's or numpy's, or a value of Python's own."""
    checked = Checked()
    root = checked.add(b"(" + named("builtins.Ellipsis") + named("torch.int8") + b"t")
    graph = checked.check.finish(root)
    ellipsis, dtype = (ref.value for ref in root)
    assert ellipsis is ...
    assert (dtype.kind, dtype.value) == ("dtype", "int8")
    assert graph.specs == [dtype]


def test_nothing_is_allowed_by_package_prefix_or_attribute():
    """Rule 1: exact pairs, dots and all."""
    for dotted in (
        "torch._utils._rebuild_tensor_v9", "torch.hub.load", "builtins.eval",
        "collections.OrderedDict.fromkeys", "Collections.OrderedDict",
        "builtins.getattr", "torch.storage._load_from_bytes.__globals__",
    ):  # fmt: skip
        with pytest.raises(ForbiddenGlobalError) as caught:
            settled(named(dotted))
        assert f"{caught.value.module}.{caught.value.name}" == dotted


def test_a_dotted_name_is_no_walk_through_attributes():
    """STACK_GLOBAL splits where the file says (V4)."""
    with pytest.raises(ForbiddenGlobalError) as caught:
        settled(text("collections") + text("OrderedDict.fromkeys") + b"\x93")
    assert caught.value.module == "collections"
    assert caught.value.name == "OrderedDict.fromkeys"


def test_what_a_file_is_refused_for_comes_before_what_else_is_wrong():
    """In the same pickle, and the other fault is the cause."""
    body = b"(" + named("os.system") + called("torch.Size", b"K\x01\x85") + b"t"
    with pytest.raises(ForbiddenGlobalError) as caught:
        settled(body)

    assert caught.value.globals == (("os", "system", "data.pkl", 3),)
    cause = caught.value.__cause__
    assert type(cause) is ForbiddenCallError
    assert (cause.name, cause.record) == ("torch.Size", "data.pkl")


def test_what_an_earlier_pickle_names_comes_first_too():
    """The second pickle alone would be a call outside its schema."""
    checked = Checked()
    checked.add(named("os.system"))
    with pytest.raises(ForbiddenGlobalError) as caught:
        checked.add(called("torch.Size", b"K\x01\x85"), "second")
    assert caught.value.globals == (("os", "system", "data.pkl", 2),)


def test_a_fault_keeps_its_cause_and_gets_its_record():
    """Where nothing is refused, the error is the checker's own."""
    with pytest.raises(ForbiddenCallError) as caught:
        settled(called("torch.Size", b"K\x01\x85"))
    error = caught.value
    assert (error.record, error.position, error.__cause__) == ("data.pkl", 17, None)


def test_a_refusal_inside_a_nested_file_is_not_wrapped_again():
    """The inner error goes out as it is."""
    checked = Checked()

    def load(data, call):
        return checked.add(called("torch.Size", b"K\x01\x85"), "inner")

    body = b"(" + named("os.system")
    body += called("torch.storage._load_from_bytes", b"C\x01x\x85") + b"t"
    with pytest.raises(ForbiddenGlobalError) as caught:
        checked.add(body, load=load)
    assert type(caught.value.__cause__) is ForbiddenCallError
    assert caught.value.__cause__.record == "inner"


def test_a_nested_pickle_leaves_the_outer_one_as_it_was():
    """Errors after it name the outer record again."""
    checked = Checked()

    def load(data, call):
        return checked.add(b"]", "inner")

    body = b"(" + called("torch.storage._load_from_bytes", b"C\x01x\x85")
    body += called("torch.Size", b"K\x01\x85") + b"t"
    with pytest.raises(ForbiddenCallError) as caught:
        checked.add(body, load=load)
    assert caught.value.record == "data.pkl"


@pytest.mark.parametrize(
    "dotted", ["torch.FloatStorage", "builtins.object", "numpy.ndarray", "torch.int8"]
)
def test_a_name_that_is_an_argument_may_be_named_but_not_called(dotted):
    """It is no entry of the calls."""
    assert settled(named(dotted)) is not None
    with pytest.raises(ForbiddenCallError) as caught:
        settled(called(dotted))
    error = caught.value
    assert (error.name, error.reason) == (dotted, "may be named, but not called")
    assert (error.record, error.position) == (
        "data.pkl",
        len(pickle(called(dotted))) - 2,
    )


def test_in_opaque_mode_such_a_call_is_a_record_of_itself():
    """Rule 4, with the name as the file writes it."""
    assert settled(called("torch.FloatStorage", b"K\x05\x85"), SALVAGE).args == (5,)
    assert settled(called("torch.int8"), SALVAGE).name == "torch.int8"


def test_an_opaque_value_holds_all_the_file_says():
    """Name, arguments, keyword arguments, state, items and elements."""
    body = named("pkg.C") + b")}" + text("k") + b"K\x01s\x92}" + text("s") + b"K\x02sb"
    body += text("x") + b"K\x03sK\x04a"
    made = settled(body, SALVAGE)

    assert type(made) is OpaqueSpec
    assert (made.name, made.args, made.kwargs) == ("pkg.C", (), {"k": 1})
    assert (made.state, made.pairs, made.elements) == ({"s": 2}, ["x", 3], [4])


def test_each_opaque_name_is_listed_once_in_order():
    """Whatever the pickle."""
    checked = Checked(SALVAGE)
    first = checked.add(b"(" + called("b.B") + called("a.A") + called("b.B") + b"t")
    second = checked.add(named("a.A") + b"\x85", "second")
    graph = checked.check.finish((first, second))
    assert graph.opaque == ["b.B", "a.A"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (named("p.Point") + b"K\x01K\x02\x86\x81", SequenceSpec),
        (named("p.Point") + b"K\x01K\x02\x86R", OpaqueSpec),
        (named("p.Point") + b"K\x01\x85\x81", OpaqueSpec),
        (named("p.Point") + b"K\x01K\x02\x86\x81}b", OpaqueSpec),
        (named("p.Point") + b"K\x01K\x02\x86\x81K\x01K\x02s", OpaqueSpec),
        (named("p.Point") + b"K\x01K\x02\x86\x81K\x01a", OpaqueSpec),
    ],
)
def test_a_named_tuple_comes_back_as_a_tuple(body, kind):
    """NEWOBJ with two fields or more and nothing after: nothing else is like it."""
    made = settled(body, SALVAGE)
    assert type(made) is kind
    if kind is SequenceSpec:
        assert (made.kind, made.elements) == ("tuple", (1, 2))


def test_the_result_of_a_call_is_never_called():
    """Rule 5 in both modes where the first call is allowed."""
    for policy in (STRICT, SALVAGE):
        with pytest.raises(ForbiddenCallError) as caught:
            settled(called("collections.OrderedDict") + b")R", policy)
        error = caught.value
        assert (error.name, error.reason) == (
            "the result of a call",
            "is called itself",
        )
        assert (error.record, error.position) == ("data.pkl", 30)


def test_a_call_of_an_opaque_result_is_opaque_and_names_it_once():
    """However many calls follow, the name says only that it was called."""
    made = settled(called("functools.partial") + b"K\x01\x85R)R", SALVAGE)
    assert made.name == "functools.partial(...)"
    inner = made.args[0]
    assert (inner.name, inner.args[1:]) == ("functools.partial(...)", (1,))
    assert inner.args[0].name == "functools.partial"


def test_results_of_one_call_share_one_name():
    """A long name is not written out for each of them."""
    body = called("m." + "n" * 1000) + b"q\x010(" + b"h\x01)R" * 3 + b"t"
    names = {id(call.value.name) for call in settled(body, SALVAGE)}
    assert len(names) == 1


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (text("f"), "str"),
        (b"]", "list"),
        (b"(" + text("storage") + named("torch.FloatStorage") + text("0")
         + text("cpu") + b"K\x04tQ", "PersistentRef"),
    ],
)  # fmt: skip
def test_what_is_no_name_is_not_called(target, kind):
    """Neither text nor a container nor a storage."""
    with pytest.raises(MalformedFileError) as caught:
        settled(target + b")R")
    assert caught.value.reason == f"a {kind} is called"
    assert caught.value.record == "data.pkl"


def accept(args: tuple[object, ...], state: object) -> object:
    """A caller's reconstructor."""
    return args, state


def test_a_name_of_the_callers_own_is_the_callers_to_build():
    """With arguments and state, and before anything of the same name here."""
    policy = STRICT.with_extra({"my.C": accept, "collections.OrderedDict": accept})
    made = settled(called("my.C", b"K\x01\x85") + b"K\x02b", policy)
    assert type(made) is ExtraSpec
    assert (made.name, made.reconstructor) == ("my.C", accept)
    assert (made.args, made.state) == ((1,), 2)
    assert settled(called("my.C"), policy).state is None
    assert type(settled(called("collections.OrderedDict"), policy)) is ExtraSpec


@pytest.mark.parametrize("after", [b"K\x01K\x02s", b"K\x01a"])
def test_a_reconstructor_takes_no_items(after):
    """It has no argument for them."""
    policy = STRICT.with_extra({"my.C": accept})
    with pytest.raises(ForbiddenCallError) as caught:
        settled(called("my.C") + after, policy)
    assert caught.value.name == "my.C"
    assert caught.value.record == "data.pkl"


def test_a_reconstructor_takes_no_keyword_arguments():
    """An empty dictionary of them is none."""
    policy = STRICT.with_extra({"my.C": accept})
    assert settled(named("my.C") + b")}\x92", policy).args == ()
    with pytest.raises(ForbiddenCallError):
        settled(named("my.C") + b")}" + text("k") + b"K\x01s\x92", policy)


RECONSTRUCT = b"(" + named("my.C") + named("builtins.object") + b"NtR"


def test_protocols_0_and_1_make_the_callers_class_as_well():
    """copyreg._reconstructor(class, object, None) is NEWOBJ of the class."""
    policy = STRICT.with_extra({"my.C": accept})
    body = named("copyreg._reconstructor") + RECONSTRUCT
    made = settled(body + b"K\x07b", policy)
    assert (type(made), made.args, made.state) == (ExtraSpec, (), 7)
    assert settled(body, policy).state is None


def test_protocols_0_and_1_make_opaque_values_without_arguments():
    """The class is the name, not the function that makes it."""
    made = settled(named("copy_reg._reconstructor") + RECONSTRUCT, SALVAGE)
    assert (made.name, made.args) == ("my.C", ())


def test_protocols_0_and_1_refuse_the_class_where_it_is_named():
    """The call adds no second refusal."""
    with pytest.raises(ForbiddenGlobalError) as caught:
        settled(named("copyreg._reconstructor") + RECONSTRUCT)
    assert [(*name[:2],) for name in caught.value.globals] == [("my", "C")]


def test_an_allowed_name_in_a_place_of_a_class_is_refused_at_the_call():
    """`numpy.record` may be named, and is no class to make."""
    body = b"(" + named("numpy.record") + named("builtins.object") + b"NtR"
    with pytest.raises(ForbiddenGlobalError) as caught:
        settled(named("copyreg._reconstructor") + body)
    assert caught.value.globals == (("numpy", "record", "data.pkl", 60),)


def test_a_state_may_hold_what_was_made_after_its_owner():
    """A call that is given a state is checked where the state stands."""
    body = called("collections.OrderedDict") + b"q\x01}" + text("_metadata")
    body += called("collections.OrderedDict") + b"sb"
    made = settled(body)
    assert made.metadata.value.kind == "OrderedDict"


def test_an_argument_is_checked_before_the_call_that_takes_it():
    """A tensor of a size that the file makes itself."""
    checked = Checked()
    body = named("torch._utils._rebuild_tensor_v2") + b"((" + text("storage")
    body += named("torch.FloatStorage") + text("0") + text("cpu") + b"K\x04tQK\x00"
    body += called("torch.Size", b"K\x04\x85\x85") + b"K\x01\x85\x89"
    body += called("collections.OrderedDict") + b"tR"
    root = checked.add(body)
    graph = checked.check.finish(root)

    assert type(root.value) is TensorSpec
    assert root.value.shape == (4,)
    assert graph.specs[-1] is root.value


def test_torchscript_names_are_data_only_where_code_is_left_out():
    """`__torch__` is the archive's own code; a name that starts like it is not."""
    checked = Checked()
    checked.check.script = True
    root = checked.add(called("__torch__.net.Model") + b"}b")
    assert root.value.name == "__torch__.net.Model"
    assert checked.check.finish(root).opaque == ["__torch__.net.Model"]

    checked.add(named("__torch__x.Model"))
    with pytest.raises(ForbiddenGlobalError):
        checked.check.finish(None)
    with pytest.raises(ForbiddenGlobalError):
        settled(called("__torch__.net.Model"))


def test_files_within_files_are_counted_on_both_sides():
    """A level that is left is free again."""
    check = FileCheck(STRICT, Limits(max_nesting=2), 0)
    check.nested()
    check.nested()
    with pytest.raises(LimitExceededError) as caught:
        check.nested()
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_nesting", 2, 3)
    check.unnested()
    check.unnested()
    check.nested()


def test_tensors_of_all_pickles_are_counted_on_both_sides():
    """`max_tensors` bounds the leaves of a file."""
    limits = Limits(max_tensors=2)
    body = called("torch.Size", b")\x85")
    checked = Checked(limits=limits)
    for record in ("one", "two"):
        checked.add(body, record)
    assert len(checked.check.finish(None).specs) == 2

    checked.add(body, "three")
    with pytest.raises(LimitExceededError) as caught:
        checked.check.finish(None)
    error = caught.value
    assert (error.limit, error.allowed, error.requested) == ("max_tensors", 2, 3)


def test_a_call_that_no_pickle_spells_out_is_checked_alike():
    """Its error gets the record it is about."""
    check = Checked().check
    rebuild = GlobalRef("torch", "Size", 0)
    assert check.add_call(Call(rebuild, ((1,),), 0x52, 0), "tensors").value == (1,)
    with pytest.raises(ForbiddenCallError) as caught:
        check.add_call(Call(rebuild, (1,), 0x52, 0), "tensors")
    assert caught.value.record == "tensors"


def test_names_of_globals_are_short():
    """A memo puts one long half into many names; at the limit it still may."""
    limits = Limits(max_key_bytes=8)
    for body in (named("m" * 8 + ".n"), text("m") + text("n" * 8) + b"\x93"):
        assert Checked(SALVAGE, limits).add(body) is not None
    for body in (named("m" * 9 + ".n"), text("m") + text("n" * 9) + b"\x93"):
        with pytest.raises(LimitExceededError) as caught:
            Checked(SALVAGE, limits).add(body)
        error = caught.value
        assert (error.limit, error.allowed, error.requested) == ("max_key_bytes", 8, 9)


def test_names_that_share_a_half_are_counted_as_if_written_out():
    """9 bytes of pickle would make 50,000 of names, refused or not."""
    names = b"".join(b"h\x01\x8c\x04%04d\x93" % number for number in range(1000))
    body = text("m" * 50_000) + b"q\x010(" + names + b"t"
    with pytest.raises(LimitExceededError) as caught:
        settled(body, SALVAGE)
    assert caught.value.limit == "max_amplification"
    with pytest.raises(ForbiddenGlobalError) as refused:
        settled(body)
    assert type(refused.value.__cause__) is LimitExceededError
    assert len(refused.value.globals) < 1000


def test_calls_of_one_name_share_it():
    """Else each call of a long name would take as much memory again."""
    body = named("m." + "n" * 60_000) + b"q\x010(" + b"h\x01)R" * 50_000 + b"t"
    started = time.process_time()
    made = settled(body, SALVAGE)
    assert time.process_time() - started < 5
    assert len({id(call.value.name) for call in made}) == 1
