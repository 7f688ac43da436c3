"""A component's signature and contract, read from its source without importing it."""
