"""Protected models: sub-keys, and the keyed permutation of elements."""
