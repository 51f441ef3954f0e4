"""The kernels of features once more, one Python integer at a time."""

from collections import Counter
from itertools import pairwise


def count_words(words, width):
    """Return what a pass over words counts, as dictionaries.

    Octants are by (number of the byte, octant, value); packed by (number of the last
    word modulo 8, value); top by the value of the upper bits.
    """
    mantissa, shift, bits = {4: (23, 13, 18), 8: (52, 45, 18)}[width]
    found = {name: Counter() for name in ("octants", "packed", "top")}
    window = 0
    for number, word in enumerate(words):
        octant = word // 2 ** (mantissa - 1) % 8
        for at in range({4: 2, 8: 6}[width]):
            found["octants"][at, octant, word // 256**at % 256] += 1
        found["top"][word // 2**shift % 2**bits] += 1
        window = (2 * window + word % 2) % 2**64
        found["packed"][number % 8, window % 256] += 1
    return found


def marks(words):
    """Return each window that is marked, with the number of its last word."""
    window, found = 0, []
    for number, word in enumerate(words):
        window = (2 * window + word % 2) % 2**64
        if window * 0x9E3779B97F4A7C15 % 2**64 < 2**54:
            found.append((window, number))
    return found


def neighbours(words):
    """Return the sum of products of lowest bytes of neighbours."""
    return sum(one % 256 * (other % 256) for one, other in pairwise(words))


def digest(words, keep, first=0):
    """Return the sums over words and over their upper bits."""
    whole = upper = 0
    for number, word in enumerate(words, first):
        weight = number * 0x9E3779B97F4A7C15 % 2**64 | 1
        whole += word * weight
        upper += (word & keep) * weight
    return whole % 2**64, upper % 2**64


def sizes(words, unsigned):
    """Return the least that is not 0, less one, the greatest, and how many are 0."""
    found = [word & unsigned for word in words]
    least = min((size for size in found if size), default=unsigned + 1)
    return least - 1, max(found), found.count(0)


def first_ones(words):
    """Return of each word whether it was not there before."""
    return [word not in words[:at] for at, word in enumerate(words)]


def streams(words, usable, octants, start, whole):
    """Return the bytes that 1, 2 and 4 low bits make, and those of whole words.

    The first of these by phase and value, the next by phase, octant and value, bytes of
    whole words by number, octant and value.
    """
    found = [Counter() for _ in range(4)]
    for table, bits in enumerate((1, 2, 4)):
        each = 8 // bits
        for at in range(len(words) - each + 1):
            if all(usable[at : at + each]):
                value = 0
                for word in words[at : at + each]:
                    value = value * 2**bits + word % 2**bits
                phase = (start + at) % each
                key = (phase, value) if bits == 1 else (phase, octants[at], value)
                found[table][key] += 1
    for word, used, octant in zip(words, usable, octants, strict=True):
        for at in range(whole if used else 0):
            found[3][at, octant, word // 256**at % 256] += 1
    return found


def rare(words, form):
    """Return counts of what few words of a format are; see the kernel."""
    zeros, small, special = Counter(), Counter(), Counter()
    highest, ones = 2 ** (form.mantissa_bits - 1), 2**form.mantissa_bits - 1
    for word in words:
        _, exponent, mantissa = form.fields(word)
        ends = len(bin(mantissa)) - len(bin(mantissa).rstrip("0"))
        zeros[ends if mantissa else 65] += 1
        if exponent == 0:
            small[mantissa.bit_length()] += 1
        elif exponent == 2**form.exponent_bits - 1:
            kinds = {0: 0, highest: 1, ones: 1}
            special[kinds.get(mantissa, 2 if mantissa >= highest else 3)] += 1
    return zeros, small, special
