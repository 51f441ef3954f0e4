"""Inert nodes → checked specs: what leaves here is built without a second look."""
