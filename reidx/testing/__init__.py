"""Test helpers for plugin authors and reidx's own tests: conformance checks, tiny domains, tiny experiments."""
