"""A protected file, opened: nothing of it is believed before it is checked.

1. The seal is found and opened first. What follows is read where the seal says it is.
2. Then: is it fresh, is the file as long as it was, does the tag of its frame hold? So
   every byte that is neither the seal's nor a tensor's is checked, too, and where all
   of them lie.
3. The tensors are checked by whoever reads them, of the same bytes in memory that are
   then used: `Opened.load`.
4. What was changed is named after the tensors were put back in order: `damage`.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from safemodel._protect import contents as layouts
from safemodel._protect.contents import Contents
from safemodel._protect.encrypted import EncryptedPool
from safemodel._protect.flow import counted
from safemodel._protect.frames import find_seal, in_file_order, stored_lengths
from safemodel._protect.header import read_header
from safemodel._protect.keys import key_for
from safemodel._protect.layout import ENCRYPTED, PLAIN, STORED, leaf_ends
from safemodel._protect.leaves import PoolTagger, change_error
from safemodel._protect.manifest import Manifest
from safemodel._protect.seal import check_fresh, open_sealed
from safemodel._protect.spans import Scattered
from safemodel._protect.subkeys import PoolKey
from safemodel._protect.tags import Tagger
from safemodel._protect.writing import frame_tag
from safemodel.errors import MalformedFileError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from safemodel._containers.source import Source
    from safemodel._protect.frames import FoundSeal
    from safemodel._protect.keys import KeyProvider, ProtectionKey
    from safemodel._protect.leaves import Difference
    from safemodel._protect.state import EpochState
    from safemodel._protect.writing import ReadInto, Step
    from safemodel.limits import Limits

NOT_PROTECTED = (
    "there is no seal: it was never protected, or somebody took the seal away"
)

ON_THE_WAY = (
    "bytes of tensors have changed on their way: in a temporary file, or in memory"
)


class Opened:
    """A protected file whose seal and frame hold.

    Attributes:
        source: The file.
        key: Its key.
        manifest: What was sealed.
        contents: Where everything lies.
        signer: The Ed25519 key that signed; None if none did.
    """

    def __init__(
        self,
        source: Source,
        key: ProtectionKey,
        manifest: Manifest,
        contents: Contents,
        signer: bytes | None,
    ) -> None:
        self.source, self.key, self.signer = source, key, signer
        self.manifest, self.contents = manifest, contents
        self._tagger = Tagger.keyed(key, manifest.file_id, manifest.epoch)
        self._spans = _spans_of(manifest, contents)

    def __repr__(self) -> str:
        return f"<Opened {self.manifest!r}>"

    def check_size(self) -> None:
        """Raise unless the file is as long as it was (rule 2)."""
        size = self.contents.size
        if self.source.size != size:
            raise VerificationError(
                f"the file has {self.source.size:,} bytes; {size:,} were protected"
            )

    def frame_holds(self) -> bool:
        """Return whether all bytes between the holes are as they were (rule 2)."""
        found = frame_tag(
            self._tagger,
            self.contents,
            stored_lengths(self.manifest.pools),
            self.source.read_into,
        )
        return hmac.compare_digest(found, self.manifest.frame)

    def take_skeleton(self) -> bytes | memoryview:
        """Return the skeleton, and hold it no longer: it may be large."""
        skeleton = self.contents.skeleton
        self.contents = Contents(**{**vars(self.contents), "skeleton": b""})
        self.manifest = Manifest(**{**vars(self.manifest), "data": ()})
        return skeleton

    def read_stored(self, number: int) -> ReadInto:
        """Return what reads a pool in stored order, from any offset."""
        spans, read = self._spans[number], self.source.read_into

        def read_into(at: int, view: memoryview) -> None:
            spans.each(read, at, view)

        return read_into

    def permutation(self, number: int) -> PoolKey:
        """Return the key of the permutation of a pool."""
        pool = self.manifest.pools[number]
        return PoolKey.of(self._tagger, self.key, number, pool)

    def encrypted(self, number: int) -> EncryptedPool:
        """Return what decrypts a pool, and takes its tags (rule 3)."""
        pool = self.manifest.pools[number]
        return EncryptedPool(self.key, self._tagger, number, pool)

    def ends(self, number: int) -> list[int]:
        """Return where each chunk of a pool ends, in stored order."""
        return leaf_ends(self.manifest.pools[number], STORED)

    def loader(
        self, number: int, step: Step
    ) -> tuple[Callable[[int, memoryview], None], list[bytes]]:
        """Return what loads a chunk of a permuted pool, and the tags it takes (rule 3).

        Args:
            number: Which pool.
            step: Is told how many bytes more were read.

        Returns:
            A function of the index of a chunk and a view, which it fills; threads may
            call it at once. And the leaves, one for each chunk that was loaded.
        """
        tagger = PoolTagger(self._tagger, number, self.manifest.pools[number])
        read = self.read_stored(number)
        tags = [b""] * tagger.chunks

        def load(index: int, view: memoryview) -> None:
            start, _ = tagger.span(index)
            read(start, view)
            tags[index] = tagger.leaf(index, view)
            step(len(view))

        return load, tags

    def stored_leaves(self, number: int, step: Step) -> list[bytes]:
        """Return the leaves of a pool as the file has it now."""
        read_into = counted(self.read_stored(number), step)
        if self.manifest.confidential:
            return self.encrypted(number).leaves_of(read_into)
        tagger = PoolTagger(self._tagger, number, self.manifest.pools[number])
        return tagger.leaves_of(read_into)

    def differences(
        self, number: int, found: list[bytes], order: int = STORED
    ) -> tuple[Difference, ...]:
        """Return what differs between leaves of a pool and those that are sealed.

        Args:
            number: Which pool.
            found: The leaves: of its encrypted bytes, if it is encrypted.
            order: In which order they are, if it is not.
        """
        if self.manifest.confidential:
            order = ENCRYPTED
        expected = self.manifest.leaves[number][min(order, PLAIN)]
        tagger = PoolTagger(self._tagger, number, self.manifest.pools[number], order)
        return tagger.differences(number, expected or (), found)

    def plain_differences(self, number: int, read: ReadInto) -> tuple[Difference, ...]:
        """Return what differs in a pool that was put back in order.

        Nothing, if the leaves of its plain order are not sealed.
        """
        if not self.has_plain_leaves(number):
            return ()
        leaves = self.plain_tagger(number).leaves_of(read)
        return self.differences(number, leaves, PLAIN)

    def has_plain_leaves(self, number: int) -> bool:
        """Return whether leaves of a pool's plain order are sealed."""
        leaves = self.manifest.leaves[number][PLAIN]
        return not self.manifest.confidential and leaves is not None

    def plain_tagger(self, number: int) -> PoolTagger:
        """Return what takes leaves of a pool that was put back in order."""
        return PoolTagger(self._tagger, number, self.manifest.pools[number], PLAIN)

    def plain_check(
        self, number: int, expected: Sequence[bytes] | None
    ) -> Callable[[int, memoryview], None]:
        """Return what raises unless a chunk of a pool, now in order, is as it was.

        Args:
            number: Which pool.
            expected: The leaves in that order; None where there are none.
        """
        tagger = self.plain_tagger(number)

        def check(index: int, view: memoryview) -> None:
            found = tagger.leaf(index, view)
            if expected and not hmac.compare_digest(found, expected[index]):
                raise VerificationError(ON_THE_WAY)

        return check

    def damage(
        self,
        stored: Iterable[Difference],
        plain: Callable[[int], ReadInto] | None,
    ) -> VerificationError:
        """Return the error that names the plain tensors that have changed.

        Of those that are encrypted it is known at once.

        Args:
            stored: What differs in stored order.
            plain: Reads a pool that was put back in order, by its number; None where
                that cannot be done, so that there are no names.
        """
        if self.manifest.confidential:
            return change_error(stored)
        found: list[Difference] = []
        for number in sorted({one.pool for one in stored}):
            if plain is not None:
                found += self.plain_differences(number, plain(number))
        # Names of stored tensors say nothing to anybody.
        unnamed = [one._replace(tensors=()) for one in stored]
        return change_error(found or unnamed)


def open_protected(
    source: Source,
    keys: ProtectionKey | KeyProvider,
    *,
    limits: Limits,
    min_epoch: int = 0,
    state: EpochState | None = None,
    accept: Callable[[memoryview], None] | None = None,
) -> Opened:
    """Open a protected file: check its seal, and that it is the newest.

    Its frame is for the caller to check, before anything else.

    Args:
        source: The file.
        keys: Its key, or where keys come from.
        limits: How much it may ask for.
        min_epoch: The lowest epoch to accept.
        state: Remembers the highest epoch of each file.
        accept: Raises if the seal is not the one that is wanted. It is given the bytes
            that are then opened: who can write the file may change it meanwhile.

    Raises:
        KeyRequiredError: The key is another one, or not there.
        LimitExceededError: It asks for too much.
        UnsupportedFormatError: It is of a later version.
        VerificationError: It was changed, is too old, or is not protected.
    """
    found = find_seal(source, limits)
    if found is None:
        raise VerificationError(NOT_PROTECTED)
    try:
        if accept is not None:
            accept(found.data)
        header = read_header(found.data, limits)
        key = key_for(header.key_id, keys)
        manifest = open_sealed(found.data, key, limits=limits, in_place=True)
        lengths = stored_lengths(manifest.pools)
        (data,) = manifest.data
        contents = layouts.decode(data, len(lengths))
        layouts.check(contents, lengths)
    except MalformedFileError as error:
        # It has the marks of a protected file: so it was one.
        raise VerificationError(f"the seal was changed: {error}") from error
    check_fresh(manifest, min_epoch=min_epoch)
    if state is not None:
        state.check(manifest.file_id, manifest.epoch)
    _check_place(found, contents)
    return Opened(source, key, manifest, contents, header.signer)


def _check_place(found: FoundSeal, contents: Contents) -> None:
    """Raise unless the seal is where it was made for."""
    start = contents.starts[0]
    expected = (contents.kind, start, start + contents.room)
    if expected != (found.kind, found.start, found.end):
        raise VerificationError("the seal is that of another file")


def _spans_of(manifest: Manifest, contents: Contents) -> list[Scattered]:
    """Return where each pool lies in the file."""
    spans = [Scattered(()) for _ in manifest.pools]
    at = 1
    for number in in_file_order(manifest.pools):
        stored = manifest.pools[number].stored
        spans[number] = Scattered.of(stored, contents.starts[at : at + len(stored)])
        at += len(stored)
    return spans
