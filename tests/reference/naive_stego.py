"""Hiding payloads once more, one bit at a time, from the published descriptions."""

import hashlib
import math

import numpy as np


def bits_of(data, order):
    """Return the bits of bytes as they are sent: the highest or the lowest first."""
    places = range(7, -1, -1) if order == "big" else range(8)
    return [byte >> place & 1 for byte in data for place in places]


def bytes_of(bits, order):
    """Return the bytes of bits."""
    places = list(range(7, -1, -1) if order == "big" else range(8))
    return bytes(
        sum(bits[start + i] << place for i, place in enumerate(places))
        for start in range(0, len(bits) // 8 * 8, 8)
    )


def places_in(x, count, order, tail):
    """Return which bits of a weight the first so many of a piece go to."""
    width = count if tail == "low" else x
    return [width - 1 - i if order == "big" else i for i in range(count)]


def write(words, positions, data, x, *, shift=0, order="big", fill=False, tail="low"):
    """Return words with a payload in them, weight after weight."""
    made, sent = list(words), bits_of(data, order)
    if fill:
        sent = [sent[i % len(sent)] for i in range(x * len(positions))]
    elif tail == "zeros":
        sent += [0] * (-len(sent) % x)
    for number, position in enumerate(positions):
        piece = sent[number * x : number * x + x]
        for bit, place in zip(
            piece, places_in(x, len(piece), order, tail), strict=True
        ):
            mask = 1 << place + shift
            made[position] = made[position] & ~mask | bit << place + shift
    return made


def read(words, positions, size, x, *, shift=0, order="big", fill=False, tail="low"):
    """Return the payload of so many bytes."""
    bits = []
    for position in positions:
        count = min(x, 8 * size - len(bits))
        where = places_in(x, count, order, "full" if fill else tail)
        bits += [words[position] >> place + shift & 1 for place in where]
    return bytes_of(bits, order)


def nearest_distance(value, x, symbol, most):
    """Return how far the nearest value with these low bits is, from 0 to the most."""
    for distance in range(1 << x):
        for other in (value - distance, value + distance):
            if 0 <= other <= most and other % (1 << x) == symbol:
                return distance
    raise AssertionError("there is always one")


def spread(weights, data, sent, *, gamma, seed, chunk, factor):
    """Return weights with signs added, bit after bit, as the published program does.

    Its generator is one for the whole process; this one is not.
    """
    made = np.array(weights, np.float64)
    groups = math.ceil(len(sent) / chunk)
    drawn = np.random.RandomState(seed)
    where = drawn.randint(0, len(made), chunk * factor * groups, np.int32).tolist()
    drawn = np.random.RandomState(seed)
    group = 0
    for done, bit in enumerate(sent, 1):
        code = drawn.choice([-1, 1], size=chunk * factor)
        here = where[group * chunk * factor : (group + 1) * chunk * factor]
        made[here] = np.add(made[here], gamma * code * bit)
        if done > chunk * (group + 1):
            group += 1
    return made


def message_of(data):
    """Return the bits of a payload and of its hash."""
    bits = bits_of(data, "big")
    digest = hashlib.sha256("".join(map(str, bits)).encode()).hexdigest()
    return bits + bits_of(digest.encode(), "big")


def blocks_of(message, block):
    """Return the message in blocks, zeros after its end, and one block more if full."""
    count = len(message) // block
    whole = [message[i * block : i * block + block] for i in range(count)]
    rest = message[count * block :]
    return [*whole, rest + [0] * (block - len(rest))]


def code(length, seed):
    """Return the checks and the generator of the published code, as matrices."""
    drawn, count = np.random.RandomState(seed), length // 12
    first = np.zeros((count, length), int)
    for row in range(count):
        first[row, 12 * row : 12 * row + 12] = 1
    checks = np.vstack([first, *(drawn.permutation(first.T).T for _ in range(2))])
    reduced = _reduced(checks)
    rank = int(reduced.any(axis=1).sum())
    order = np.arange(length)
    while True:
        row = next(row for row in range(len(reduced)) if not reduced[row, row])
        ones = [column for column in range(row + 1, length) if reduced[row, column]]
        if not ones:
            break
        reduced[:, [row, ones[0]]] = reduced[:, [ones[0], row]]
        order[[row, ones[0]]] = order[[ones[0], row]]
    parity = reduced[:rank, rank:].T
    generator = np.hstack([np.eye(length - rank, dtype=int), parity])
    return checks[:, np.roll(order, -rank)], generator


def _reduced(matrix):
    """Return the reduced echelon form over two elements."""
    made, top = matrix.copy(), 0
    for column in range(made.shape[1]):
        below = [row for row in range(top, len(made)) if made[row, column]]
        if not below:
            continue
        made[[top, below[0]]] = made[[below[0], top]]
        for row in range(len(made)):
            if row != top and made[row, column]:
                made[row] ^= made[top]
        top += 1
    return made
