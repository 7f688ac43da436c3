"""Pytest fixtures shared by the tests of the core and of plugins.

``pytest_plugins = ["reidx.testing.fixtures"]`` in the topmost ``conftest.py`` makes them available.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def fixed_threads() -> None:
    """Fix the number of threads, one in each worker of xdist, so that no run depends on the load of the machine."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.pop("COLUMNS", None)  # which xdist sets; tables in a pipe are as wide as they need


@pytest.fixture(scope="session")
def domains_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder to which tiny domains are rendered on first use."""
    return tmp_path_factory.mktemp("domains")
