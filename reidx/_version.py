"""The version of reidx."""

__version__ = "0.1.0"
