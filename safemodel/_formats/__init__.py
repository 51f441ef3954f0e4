"""One module a file format: containers, pickles and checks make one graph."""
