"""What `safemodel.monkeypatch` is made of: what is replaced, by what, and undone."""
