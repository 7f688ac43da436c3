"""The fixtures that all tests share."""

pytest_plugins = ["reidx.testing.fixtures"]
