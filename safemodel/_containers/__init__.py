"""Bytes → named records: knows containers, nothing of pickle; extracts nothing."""
