"""A folder for `PYTHONPATH`: its `sitecustomize` patches the interpreters started so.

Nothing of the package imports what is in here.
"""
