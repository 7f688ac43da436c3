"""The ``reidx`` command: one module a command, imported on use."""
