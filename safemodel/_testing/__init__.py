"""What `safemodel.testing` and the pytest plugin are made of."""
