"""A module that trips the canary when it is imported; nothing but a file names it."""

from safemodel.testing import trip

nothing = trip("imported")
