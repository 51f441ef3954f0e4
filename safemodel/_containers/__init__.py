"""Bytes → named records. Knows containers, nothing of pickle; runs and extracts nothing."""
