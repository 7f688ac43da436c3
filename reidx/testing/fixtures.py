"""Pytest fixtures shared by the tests of the core and of plugins.

``pytest_plugins = ["reidx.testing.fixtures"]`` in the topmost ``conftest.py`` makes them available, and the option
``--quick``, which skips each test at the moment when it begins to train or starts a process.
"""

from __future__ import annotations

import multiprocessing.process
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reidx.testing.colours import draw_domains


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--quick`` to pytest's options."""
    parser.addoption("--quick", action="store_true", help="skip tests that train or start a process")


SLOW: list[str] = []
"""Reasons to skip the running test under ``--quick``; at most one."""


def _too_slow(reason: str) -> None:
    SLOW.append(reason)
    pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip a test that reached something slow, also where the code under test caught the skip or turned it into an error."""
    SLOW.clear()
    try:
        return (yield)
    finally:
        if SLOW:
            pytest.skip(SLOW[0])


@pytest.fixture(scope="session", autouse=True)
def quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """With ``--quick``, skip a test when it builds a trained stage or starts a process.

    No list of slow tests needs to be maintained, and what a test asserts before that point still counts.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--quick"):
            from reidx.engine.stage import StageRun

            start = subprocess.Popen.__init__

            def guarded(process: Any, command: Any, *args: Any, **kwargs: Any) -> None:
                if isinstance(command, list) and command[0] == sys.executable:
                    _too_slow("starts a process")
                start(process, command, *args, **kwargs)

            patch.setattr(StageRun, "__init__", lambda *_, **__: _too_slow("trains"))
            patch.setattr(subprocess.Popen, "__init__", guarded)
            patch.setattr(multiprocessing.process.BaseProcess, "start", lambda _: _too_slow("starts a process"))
        yield


@pytest.fixture(scope="session", autouse=True)
def fixed_threads() -> None:
    """Fix the number of threads, one in each worker of xdist, so that no run depends on the load of the machine."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    os.environ.pop("COLUMNS", None)  # which xdist sets; tables in a pipe are as wide as they need


@pytest.fixture(scope="session")
def domains_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two tiny domains, ``source`` and ``target``."""
    return draw_domains(tmp_path_factory.mktemp("domains"))
