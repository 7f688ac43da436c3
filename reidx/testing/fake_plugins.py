"""Temporary plugins, to test the discovery of working and of broken ones."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import reidx
from reidx.registry.discovery import discover
from reidx.registry.plugin import Plugin
from reidx.registry.registry import Registry

HEALTHY = '''
from reidx import Component, PluginInfo, hookimpl

@hookimpl
def reidx_plugin():
    return PluginInfo(title="A plugin in good health", api=1, paper="Doe, Health, 2020", licence="MIT")

@hookimpl
def reidx_components():
    return [Component("loss", "Zero", "{module}:Zero", {{"scale": 2.0}})]

class Zero:
    """Nothing, scaled."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
'''


@dataclass
class FakePlugins:
    """Installed distributions (dist-info folder with an entry point, and a module) in a folder of the import path."""

    folder: Path

    def add(
        self,
        namespace: str,
        source: str = HEALTHY,
        distribution: str = "",
        version: str = "0.1",
        module: str = "",
    ) -> None:
        """Install a distribution that claims ``namespace``; ``{module}`` in the source is its module's name."""
        distribution = distribution or f"reidx-{namespace}"
        module = module or f"fake_{distribution.replace('-', '_').replace('.', '_')}"
        (self.folder / f"{module}.py").write_text(
            source.replace("{module}", module).replace("{{", "{").replace("}}", "}"), encoding="utf-8"
        )
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[reidx.plugins]\n{namespace} = {module}\n", encoding="utf-8")

    def discover(self) -> tuple[Registry, dict[str, list[Plugin]]]:
        """Discover the registry and the plugins by namespace, as a new process would."""
        importlib.invalidate_caches()
        registry, plugins = discover()
        found: dict[str, list[Plugin]] = {}
        for plugin in plugins:
            found.setdefault(plugin.namespace, []).append(plugin)
        return registry, found

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m reidx`` (or ``python -c …`` for a first argument ``-c``) in a process with the plugins."""
        command = arguments if arguments[0] == "-c" else ("-m", "reidx", *arguments)
        path = [str(self.folder), str(Path(reidx.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        return subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), **environment},
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )

    def forget(self) -> None:
        """Drop the plugins' modules from this process."""
        for name in [name for name in sys.modules if name.startswith("fake_")]:
            del sys.modules[name]
