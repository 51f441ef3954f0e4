import pytest

from safemodel._graph.composite_specs import OpaqueSpec
from safemodel.errors import ForbiddenCallError, ForbiddenGlobalError


def test_newobj_as_a_function_is_its_class(file):
    """copyreg.__newobj__(class, *args), as protocols 0 and 1 may write it."""
    kind = file.ref("__builtin__.complex")

    assert file.check("copy_reg.__newobj__", kind, 1.0, 2.0) == complex(1, 2)


def test_a_reconstructor_of_an_unknown_class_is_refused_by_name(file):
    """And what stands in for it gets the class, its value and its state."""
    args = (file.ref("my.pkg.Sub"), file.ref("builtins.dict"), {"a": 1})

    with pytest.raises(ForbiddenGlobalError) as caught:
        file.check("copyreg._reconstructor", *args)
    assert caught.value.globals == (("my.pkg", "Sub", "archive/data.pkl", 117),)

    file.ctx.refused = lambda call, name: OpaqueSpec(name, call.args, None, call.state)
    spec = file.check("copyreg._reconstructor", *args, state={"b": 2})
    assert (spec.name, spec.args, spec.state) == ("my.pkg.Sub", ({"a": 1},), {"b": 2})


def test_copyreg_never_names_itself(file):
    """One level, so that nothing recurses."""
    for inner in ("copyreg._reconstructor", "copyreg.__newobj__"):
        with pytest.raises(ForbiddenGlobalError) as caught:
            file.check("copyreg.__newobj__", file.ref(inner), file.ref(inner))
        assert caught.value.module == "copyreg"


@pytest.mark.parametrize(
    ("base", "value"),
    [("builtins.eval", None), ("builtins.object", 1), ("evil.list", [1])],
)
def test_a_base_is_a_builtin_type(file, base, value):
    """Object without a value, or a type with one."""
    args = (file.ref("uuid.UUID"), file.ref(base), value)
    with pytest.raises(ForbiddenCallError) as caught:
        file.check("copyreg._reconstructor", *args)
    assert caught.value.reason == "its base is not a builtin type"


def test_a_class_is_a_global(file):
    """Its name as text is none."""
    with pytest.raises(ForbiddenCallError) as caught:
        file.check(
            "copyreg._reconstructor", "uuid.UUID", file.ref("builtins.object"), None
        )
    assert caught.value.reason == "its class is not a class"


def test_no_class_at_all_is_refused(file):
    """__newobj__ needs one."""
    with pytest.raises(ForbiddenCallError) as caught:
        file.check("copyreg.__newobj__")
    assert caught.value.reason == "it is given no class"
