"""What `detect` looks at and how it decides: weights, counts, tests, evidence."""
