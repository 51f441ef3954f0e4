"""Hide bits in arrays of words, in the ways that are known: random bits, and no other.

Every way is a payload and the positions of the weights it is written to, so that
`payload_recovery` can read all of them.
"""

import os
import zlib

import numpy as np

HEAD_BYTES = 8
"""Of a packet: a checksum of the rest, and its index, four bytes each.

The index is masked with the first four bytes of data: an author who hides bits takes
care that no position is a zero more often than a one.
"""


def masked(data, number):
    """Return four bytes of a number and of data, combined."""
    return (int.from_bytes(data[:4], "little") ^ number).to_bytes(4, "little")


def payload_of(size):
    """Return random bytes of as many ones as zeros.

    A defence that writes a constant is wrong as often as the payload differs from it:
    what is measured should be the defence, not the chance that made the payload.
    """
    bits = np.arange(8 * size) % 2
    seed = np.frombuffer(os.urandom(32), np.uint64)
    return np.packbits(np.random.default_rng(seed).permutation(bits)).tobytes()


def write(words, payload, bits, positions=None, copies=1):
    """Write a payload into the low bits of words, in place, the way it is read."""
    sent = np.tile(np.unpackbits(np.frombuffer(payload, np.uint8)), copies)
    needed = -(-sent.size // bits)
    where = np.arange(needed) if positions is None else positions[:needed]
    room = np.zeros(needed * bits, np.uint8)
    room[: sent.size] = sent
    values = np.zeros(needed, words.dtype)
    for column in room.reshape(-1, bits).T:
        values = values << words.dtype.type(1) | column.astype(words.dtype)
    low = words.dtype.type(2**bits - 1)
    words[where] = words[where] & ~low | values


def capacity_bytes(words, bits, step=1, copies=1):
    """Return how long a payload may be: a whole number of bytes."""
    return words.size // step * bits // 8 // copies


def contiguous(words, bits):
    """Fill the words from the first one on; return payload, positions and copies."""
    payload = payload_of(capacity_bytes(words, bits))
    write(words, payload, bits)
    return payload, None, 1


def strided(words, bits, step=5):
    """Use one word in five."""
    payload = payload_of(capacity_bytes(words, bits, step))
    positions = np.arange(0, words.size, step)
    write(words, payload, bits, positions)
    return payload, positions, 1


def coded(words, bits, copies=5):
    """Write five copies, so that a bit may be wrong in two of them."""
    payload = payload_of(capacity_bytes(words, bits, copies=copies))
    write(words, payload, bits, copies=copies)
    return payload, None, copies


def self_indexed(words, bits):
    """Write packets that say which they are, in an order only a key repeats.

    Moving rows of weights about does not harm such a payload: see `read_packets`.
    """
    size = 8 * bits  # bytes in 64 weights
    slots = np.arange(words.size // 64 * 64).reshape(-1, 64)
    key = np.random.default_rng(np.frombuffer(os.urandom(32), np.uint64))
    positions = key.permutation(slots).reshape(-1)
    packets = []
    for index in range(len(slots)):
        data = os.urandom(size - HEAD_BYTES)
        body = masked(data, index) + data
        packets.append(zlib.crc32(body).to_bytes(4, "little") + body)
    payload = b"".join(packets)
    write(words, payload, bits, positions)
    return payload, positions, 1


def read_packets(words, bits):
    """Return the packets that are anywhere in the words, by index, without the key."""
    found = {}
    slots = words[: words.size // 64 * 64].reshape(-1, 64)
    shifts = np.arange(bits - 1, -1, -1).astype(words.dtype)
    for slot in slots:
        read = (slot[:, None] >> shifts & words.dtype.type(1)).astype(np.uint8)
        packet = np.packbits(read.reshape(-1)).tobytes()
        if zlib.crc32(packet[4:]).to_bytes(4, "little") == packet[:4]:
            index = masked(packet[8:12], int.from_bytes(packet[4:8], "little"))
            found[int.from_bytes(index, "little")] = packet
    return found


KINDS = {
    "contiguous": contiguous,
    "strided": strided,
    "self-indexed": self_indexed,
    "coded": coded,
}
"""Name to what hides random bits and returns payload, positions and copies."""
