"""`Policy`: a value that says which names a call accepts."""

from __future__ import annotations

import dataclasses

import pytest

from safemodel.policy import SALVAGE, STRICT, Policy


def accept(args: tuple[object, ...], state: object) -> object:
    """A caller's reconstructor."""
    return args, state


def test_the_two_policies_differ_in_one_thing():
    """What is outside the allowlist is refused, or opaque."""
    assert (STRICT.others, dict(STRICT.extra)) == ("refuse", {})
    assert (SALVAGE.others, dict(SALVAGE.extra)) == ("opaque", {})
    assert Policy() == STRICT
    assert STRICT != SALVAGE


@pytest.mark.parametrize("others", ["allow", "REFUSE", "", None, True])
def test_there_is_no_third_way(others):
    """Least of all one that runs something."""
    with pytest.raises(ValueError, match="others must be 'refuse' or 'opaque'"):
        Policy(others=others)


@pytest.mark.parametrize("name", ["Config", "", 7, None, ("pkg", "Config")], ids=repr)
def test_a_name_has_a_module(name):
    """A bare name would be nobody's."""
    with pytest.raises(ValueError, match="not a dotted name"):
        Policy(extra={name: accept})


@pytest.mark.parametrize("value", [None, "accept", 7], ids=repr)
def test_a_reconstructor_can_be_called(value):
    """Here, not when the first file comes."""
    with pytest.raises(TypeError, match=r"the reconstructor of pkg\.C is not callable"):
        STRICT.with_extra({"pkg.C": value})


def test_a_grant_is_a_new_policy():
    """The one it is made from grants nothing more; the same name is the later one's."""
    one = STRICT.with_extra({"pkg.A": accept})
    two = one.with_extra({"pkg.B": accept, "pkg.A": print})
    assert dict(STRICT.extra) == {}
    assert dict(one.extra) == {"pkg.A": accept}
    assert dict(two.extra) == {"pkg.A": print, "pkg.B": accept}
    assert SALVAGE.with_extra({"pkg.A": accept}).others == "opaque"


def test_what_the_caller_does_to_the_mapping_later_grants_nothing():
    """It is copied, and the copy cannot be written to."""
    given = {"pkg.A": accept}
    policy = Policy(extra=given)
    given["os.system"] = accept
    assert list(policy.extra) == ["pkg.A"]
    with pytest.raises(TypeError):
        policy.extra["os.system"] = accept


def test_a_policy_does_not_change():
    """Neither by assignment nor by deletion."""
    policy = Policy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.others = "opaque"
    with pytest.raises(dataclasses.FrozenInstanceError):
        del policy.others
    assert policy == STRICT


def test_dataclasses_knows_its_members():
    """`replace` and `fields` work as on any frozen dataclass."""
    assert [field.name for field in dataclasses.fields(Policy)] == ["others", "extra"]
    changed = dataclasses.replace(STRICT, others="opaque")
    assert changed == SALVAGE
