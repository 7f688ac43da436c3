"""What the core's tests share: experiments on tiny domains, components and plugins made up for a test."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reidx.registry.discovery import installed, registry
from reidx.registry.registry import KINDS, Component, Entry, Registry
from reidx.testing.fake_plugins import FakePlugins
from reidx.testing.tiny import tiny_experiment, write_experiment


@pytest.fixture
def experiment(tmp_path: Path, domains_root: Path) -> Callable[..., Path]:
    """Writes the tiny experiment, with changes of its top-level keys, and gives its file."""

    def write(**changes: object) -> Path:
        return write_experiment(tmp_path / "experiment.yaml", tiny_experiment(domains_root, **changes))

    return write


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, type], None]]:
    """Makes a class a component of the core, under its own name, until the test is over; plugins are then unknown."""
    known = Registry()
    for kind in KINDS:
        for entry in registry().entries(kind):
            if not entry.namespace:
                known.add(entry)
    home = types.ModuleType("registered_for_a_test")
    monkeypatch.setitem(sys.modules, home.__name__, home)

    def register(kind: str, component: type) -> None:
        setattr(home, component.__name__, component)
        target = f"{home.__name__}:{component.__name__}"
        known.add(Entry(Component(kind, component.__name__, target), "", "the test"))

    with installed(known):
        yield register


@pytest.fixture
def listening() -> Iterator[None]:
    """SIGINT is a KeyboardInterrupt, also in a job in the background, whose shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fake_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlugins]:
    """A folder of the import path to install made-up plugins in."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("REIDX_PLUGINS", raising=False)
    monkeypatch.delenv("REIDX_STRICT_PLUGINS", raising=False)
    plugins = FakePlugins(tmp_path)
    yield plugins
    plugins.forget()
