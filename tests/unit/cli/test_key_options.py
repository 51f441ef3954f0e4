"""Options of protected files: where keys come from, and what is a time or an epoch."""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

import pytest

from safemodel._cli import key_options
from safemodel._protect.keys import KeyRing, ProtectionKey
from safemodel.errors import KeyFormatError, KeyRequiredError

NOW = 1_800_000_000


@pytest.fixture
def _fixed_clock(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: NOW + 0.9)


def parsed(*arguments: str) -> argparse.Namespace:
    """Return the options of a verb that takes a key."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    key_options.add_key(parser, several=True)
    return parser.parse_args(arguments)


def written(path, *, mode=0o600):
    """Return a new key, after writing it to a file."""
    key = ProtectionKey.generate()
    key.to_file(path)
    path.chmod(mode)
    return key


def test_a_key_comes_from_a_file_or_a_variable(tmp_path, monkeypatch):
    """The line of a key file is what the variable holds."""
    key = written(tmp_path / "k")
    monkeypatch.setenv("MODEL_KEY", (tmp_path / "k").read_text().splitlines()[-1])
    assert key_options.key_of(parsed("--key", str(tmp_path / "k"))) == key
    assert key_options.key_of(parsed("--key-env", "MODEL_KEY")) == key
    with pytest.raises(KeyRequiredError, match="NONE is not set"):
        key_options.key_of(parsed("--key-env", "NONE"))


def test_several_keys_are_found_by_their_ids(tmp_path):
    """Whichever a file names."""
    keys = [written(tmp_path / name) for name in "ab"]
    ring = key_options.key_of(
        parsed("--key", str(tmp_path / "a"), "--key", str(tmp_path / "b"))
    )
    assert isinstance(ring, KeyRing)
    assert [ring.get(key.id) for key in keys] == keys


def test_a_key_that_others_may_read_has_to_be_asked_for(tmp_path):
    """As one that is mounted into a container."""
    key = written(tmp_path / "k", mode=0o644)
    with pytest.raises(KeyFormatError, match="others may use it"):
        key_options.key_of(parsed("--key", str(tmp_path / "k")))
    shared = parsed("--key", str(tmp_path / "k"), "--shared-key")
    assert key_options.key_of(shared) == key


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1s", NOW + 1),
        ("30m", NOW + 1800),
        ("12h", NOW + 43_200),
        ("90d", NOW + 7_776_000),
        ("2w", NOW + 1_209_600),
        ("2099-01-31", datetime(2099, 1, 31, tzinfo=UTC).timestamp()),
        ("2099-01-31T12:00", datetime(2099, 1, 31, 12, tzinfo=UTC).timestamp()),
        ("2099-01-31T12:00+02:00", datetime(2099, 1, 31, 10, tzinfo=UTC).timestamp()),
        ("2099-01-31T12:00Z", datetime(2099, 1, 31, 12, tzinfo=UTC).timestamp()),
    ],
)
@pytest.mark.usefixtures("_fixed_clock")
def test_a_time_is_a_duration_or_a_date(text, at):
    """From now, or of the calendar; UTC unless it says otherwise."""
    assert key_options.moment(text) == at


@pytest.mark.parametrize(
    "text",
    ["", "1", "d", "-1d", "1.5d", "1y", "0d", "tomorrow", "2020-01-01", "1970-01-01",
     "0001-01-01T00:00+14:00", "2099-13-01", "²d", "99999999999d", "1d "],
)  # fmt: skip
@pytest.mark.usefixtures("_fixed_clock")
def test_what_is_no_time_or_over_is_refused(text):
    """What has expired when it is made helps nobody."""
    with pytest.raises(argparse.ArgumentTypeError):
        key_options.moment(text)


@pytest.mark.parametrize("text", ["0", "7", str(2**63 - 1)])
def test_epochs(text):
    assert key_options.epoch(text) == int(text)


@pytest.mark.parametrize(
    "text",
    ["", "-1", "1.0", "x", "²", "٣", str(2**63), "9" * 5000, "0" * 20 + str(2**63)],
)
def test_what_is_no_epoch_is_refused(text):
    """Bounded before it becomes a number."""
    with pytest.raises(argparse.ArgumentTypeError):
        key_options.epoch(text)
