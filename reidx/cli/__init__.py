"""The ``reidx`` command: one module per command, imported on use."""
