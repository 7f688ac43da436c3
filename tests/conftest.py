"""Fixtures of the core's tests: experiments on tiny domains, and components and plugins for a single test."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reidx.registry.discovery import registry, registry_override
from reidx.registry.registry import KINDS, Component, Entry, Registry
from reidx.testing.fake_plugins import FakePlugins
from reidx.testing.tiny import tiny_experiment, write_experiment


@pytest.fixture
def experiment(tmp_path: Path, domains_root: Path) -> Callable[..., Path]:
    """Return a function that writes the tiny experiment with changed top-level keys and returns its file."""

    def write(**changes: object) -> Path:
        return write_experiment(tmp_path / "experiment.yaml", tiny_experiment(domains_root, **changes))

    return write


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, type], None]]:
    """Return a function that registers a class in the core under its own name for one test, without plugins."""
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

    with registry_override(known):
        yield register


@pytest.fixture
def listening() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, even in a background job whose shell ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def fake_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlugins]:
    """Folder on the import path in which a test installs fake plugins."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("REIDX_PLUGINS", raising=False)
    monkeypatch.delenv("REIDX_STRICT_PLUGINS", raising=False)
    plugins = FakePlugins(tmp_path)
    yield plugins
    plugins.forget()
