"""Classes that trip the canary where no function is called: made, set, filled."""

from __future__ import annotations

from safemodel.testing import trip


class Made:
    """Trips when it is made, whatever with."""

    def __new__(cls, *_: object, **__: object):
        trip("made")
        return super().__new__(cls)


class State:
    """Trips when it gets its state."""

    def __setstate__(self, state: object) -> None:
        trip("state")


class Items:
    """Trips when something is put into it."""

    def append(self, item: object) -> None:
        trip("append")

    def extend(self, items: object) -> None:
        trip("extend")

    def __setitem__(self, key: object, item: object) -> None:
        trip("setitem")
