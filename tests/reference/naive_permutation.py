"""The permutation of a pool once more, one Python integer at a time.

Written from docs/adr/0016 and 0019: keys by RFC 5869 from hmac, places as numbers. Only
the block function of ChaCha20 is someone else's.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms


def sub_key(master, file_id, epoch, pool, use):
    """Return a sub-key: HKDF-SHA256 of one block."""
    info = b"safemodel permute\0" + epoch.to_bytes(8, "little")
    for text in (pool.encode(), use.encode()):
        info += len(text).to_bytes(8, "little") + text
    secret = hmac.digest(file_id, master, hashlib.sha256)
    return hmac.digest(secret, info + b"\x01", hashlib.sha256)


class Words:
    """Integers of the keystream of a key, one after the other."""

    def __init__(self, key, number=0):
        nonce = bytes(4) + number.to_bytes(12, "little")
        self.cipher = Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()

    def next(self, size):
        """Return the next integer of so many bytes."""
        return int.from_bytes(self.cipher.update(bytes(size)), "little")

    def below(self, bound):
        """Return an integer below a bound: words that would favour some are skipped."""
        size = 4 if bound <= 2**32 else 8
        # So many words stand for each integer; the first few stand for none.
        while True:
            word = self.next(size)
            if accepted(word, bound, size):
                return word * bound // 2 ** (8 * size)

    def exchanges(self, first, count):
        """Return exchanges k = first ...: a partner from 0 to k for each."""
        partners, again = [], []
        for k in range(first, first + count):
            word = self.next(4)
            partners.append(word * (k + 1) // 2**32)
            if not accepted(word, k + 1, 4):
                again.append(k)
        for k in again:
            partners[k - first] = self.below(k + 1)
        return partners


def accepted(word, bound, size):
    """Return whether a word may be used, so that each integer has as many words."""
    span = 2 ** (8 * size)
    return word * bound % span >= span % bound


def shuffle(values, words, first):
    """Exchange each value from `first` on with one before it, or itself."""
    for start in range(first, len(values), 2**16):
        count = min(2**16, len(values) - start)
        for k, partner in enumerate(words.exchanges(start, count), start):
            values[k], values[partner] = values[partner], values[k]


def shuffle_rows(table, words):
    """Shuffle rows of one length; words that were refused are drawn again after all."""
    again, every = [], []
    for r, row in enumerate(table):
        drawn = [words.next(4) for _ in row]
        every.append([word * (k + 1) // 2**32 for k, word in enumerate(drawn)])
        again += [(r, k) for k, w in enumerate(drawn) if not accepted(w, k + 1, 4)]
    for r, k in again:
        every[r][k] = words.below(k + 1)
    for row, partners in zip(table, every, strict=True):
        for k, partner in enumerate(partners):
            row[k], row[partner] = row[partner], row[k]


def switches(lines, words, at, *, back=False):
    """Send lines of values through every layer; return where the next words are."""
    layers = len(lines).bit_length() - 1
    half = len(lines) // 2
    order = range(layers)
    for k in reversed(order) if back else order:
        pairs = [r for r in range(len(lines)) if not r >> k & 1]
        for n, r in enumerate(pairs):
            other = r + 2**k
            for lane in range(len(lines[0])):
                if words[at + k * half + n] >> lane & 1:
                    held = lines[r][lane]
                    lines[r][lane] = lines[other][lane]
                    lines[other][lane] = held
    return at + layers * half


def turned(lines):
    """Return lines and lanes exchanged."""
    return [list(lane) for lane in zip(*lines, strict=True)]


class Pool:
    """A pool in rounds."""

    def __init__(self, count, itemsize):
        self.count, self.itemsize = count, itemsize
        self.lanes = min(64 // itemsize, 32)
        self.rows = 16 * self.lanes
        unit = self.rows * self.lanes
        self.tiles = count // unit // 2 * 2 if count >= max(2**16, 16 * unit) else 0
        self.whole = self.tiles * unit

    def bits(self, key, count):
        """Return words of switches: count for each tile, 64 tiles a keystream."""
        size = max(self.lanes // 8, 1)
        found = []
        for tile in range(self.tiles):
            if tile % 64 == 0:
                words = Words(key, tile // 64)
            found.append([words.next(size) for _ in range(count)])
        return found

    def spread(self, values, pieces, columns, bits):
        """Return values after the first round."""
        lanes, length = self.lanes, 16 * self.lanes
        rows = [[None] * self.tiles for _ in range(self.rows)]
        for tile in range(self.tiles):
            mine = pieces[tile * lanes : (tile + 1) * lanes]
            parts = [values[p * length : (p + 1) * length] for p in mine]
            lines, at = [], 0
            for i in range(16):
                part = turned([p[i * lanes : (i + 1) * lanes] for p in parts])
                at = switches(part, bits[tile], at)
                lines += part
            for r in range(lanes):
                far = lines[r::lanes]
                at = switches(far, bits[tile], at)
                for i, line in enumerate(far):
                    row = i * lanes + r
                    column = (columns[row][tile // 64] + tile % 64) % self.tiles
                    rows[row][column] = line
            assert at == len(bits[tile])
        return [value for row in rows for line in row for value in line]

    def stir(self, values, bits):
        """Return values after the second round."""
        lanes, unit, found = self.lanes, self.rows * self.lanes, []
        for chunk in range(self.tiles):
            mine = values[chunk * unit : (chunk + 1) * unit]
            lines, at = [], 0
            for i in range(16):
                part = mine[i * lanes * lanes : (i + 1) * lanes * lanes]
                near = [part[r * lanes : (r + 1) * lanes] for r in range(lanes)]
                at = switches(near, bits[chunk], at)
                near = turned(near)
                at = switches(near, bits[chunk], at)
                lines += near
            for r in range(lanes):
                far = lines[r::lanes]
                at = switches(far, bits[chunk], at)
                lines[r::lanes] = far
            assert at == len(bits[chunk])
            found += [value for line in lines for value in line]
        return found

    def deal(self, slabs, words, slab, segment):
        """Return the pieces of all tiles: slabs in an order, shuffled in segments."""
        count = self.tiles * self.lanes
        size = slab // (16 * self.lanes * self.itemsize)
        dealt = []
        for number in slabs(-(-count // size)):
            dealt += range(number * size, min((number + 1) * size, count))
        blocks = -(-self.tiles // 64)
        most = max(segment // (64 * self.rows * self.lanes * self.itemsize), 1)
        segments = -(-blocks // most)
        found = []
        for k in range(segments):
            first = 64 * (blocks * k // segments)
            last = min(64 * (blocks * (k + 1) // segments), self.tiles)
            mine = dealt[first * self.lanes : last * self.lanes]
            found += self.dealt(mine, words(k))
        assert sorted(found) == list(range(count))
        return found

    def dealt(self, mine, words):
        """Return the pieces of a segment: group after group, one to each block."""
        full = 64 * self.lanes
        blocks, over = divmod(len(mine), full)
        places = iter(mine)
        groups = [
            [[next(places) for _ in range(blocks + k)] for _ in range(count)]
            for k, count in ((1, over), (0, full - over))
        ]
        for table in groups:
            shuffle_rows(table, words)
        whole = [[row[b] for row in groups[0] + groups[1]] for b in range(blocks)]
        shuffle_rows(whole, words)
        rest = [[row[blocks] for row in groups[0]]]
        shuffle_rows(rest, words)
        return [piece for row in whole + rest for piece in row]


def permuted(
    values, itemsize, *, master, file_id, epoch, pool, slab=2**15, segment=2**25
):
    """Return the values of a pool in their protected order."""
    shape = Pool(len(values), itemsize)

    def key(use):
        whole = f"{len(values)} x {itemsize} bytes: {use}"
        return sub_key(master, file_id, epoch, pool, whole)

    def order(count, use):
        places = list(range(count))
        shuffle(places, Words(key(use)), 0)
        return places

    body, rest = list(values[: shape.whole]), list(values[shape.whole :])
    layer = (shape.lanes.bit_length() - 1) * shape.lanes // 2
    near, far = 16 * layer, shape.lanes * 32
    if shape.tiles:
        pieces = shape.deal(
            lambda count: order(count, "slabs"),
            lambda number: Words(key("pieces"), number),
            slab,
            segment,
        )
        columns = []
        for number in range(shape.rows // 16):
            columns += _columns(shape, Words(key("columns"), number))
        body = shape.spread(body, pieces, columns, shape.bits(key("tile"), near + far))
    body += rest
    shuffle(body, Words(key("exchange")), shape.whole)
    if shape.tiles:
        bits = shape.bits(key("chunk"), 2 * near + far)
        body[: shape.whole] = shape.stir(body[: shape.whole], bits)
    return body


def _columns(shape, words):
    """Return where blocks of 64 tiles begin in 16 rows."""
    whole = shape.tiles // 64
    rows = [[64 * start for start in range(whole)] for _ in range(16)]
    shuffle_rows(rows, words)
    if shape.tiles % 64:
        rows = [[*starts, shape.tiles - shape.tiles % 64] for starts in rows]
    turns = [2 * words.below(shape.tiles // 2) for _ in rows]
    return [
        [(start + turn) % shape.tiles for start in starts]
        for starts, turn in zip(rows, turns, strict=True)
    ]
