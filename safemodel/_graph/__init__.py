"""Inert nodes → checked specs. Whatever leaves here may be built without a second look."""
