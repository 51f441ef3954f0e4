"""Keys, seals, tags and the permutation of a protected file; no file format here."""
