"""One module a file format: containers, pickles and checks put together into a graph."""
