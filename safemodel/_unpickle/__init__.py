"""Pickle bytes → inert nodes. Nothing is imported, looked up or called."""
