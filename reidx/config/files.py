"""Config files by address: a path, or ``namespace::path.yaml`` in the configs of a plugin."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from reidx.errors import ConfigError, closest, did_you_mean

LARGEST = 250_000
"""Largest config file in bytes. PyYAML reads some 100 kB a second; the longest config shipped with reidx has 6 kB."""

_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


@dataclass(frozen=True)
class ConfigFile:
    """A config file with its display name: ``namespace::path.yaml``, or the path as given."""

    namespace: str
    name: str
    file: Path

    def __str__(self) -> str:
        return f"{self.namespace}::{self.name}" if self.namespace else self.name

    @classmethod
    def at(cls, address: str) -> ConfigFile:
        """Return the file at ``address``, which need not exist. Raises :class:`ConfigError` for a bad namespace."""
        namespace, colons, name = address.partition("::")
        if not colons:
            return cls("", address, Path(address))
        from reidx.registry.discovery import (
            config_root,  # here, so that reading plain files needs no plugin discovery
        )

        if not namespace or not name:
            raise ConfigError(f"{address!r} is not an address; write namespace::path/in/its/configs.yaml.")
        name = posixpath.normpath(name)
        if posixpath.isabs(name) or name.split("/")[0] == "..":
            raise ConfigError(f"{address!r} leads out of the configs of {namespace!r}.")
        return cls(namespace, name, config_root(namespace) / name)

    def base(self, address: str) -> ConfigFile:
        """Resolve ``address`` relative to this file."""
        if "::" in address:
            return self.at(address)
        if self.namespace:
            return self.at(f"{self.namespace}::{posixpath.join(posixpath.dirname(self.name), address)}")
        shown = os.path.normpath(os.path.join(os.path.dirname(self.name), address))
        return ConfigFile("", shown, self.file.parent / address)

    def read(self) -> str:
        """Read the file. Raises :class:`ConfigError` with the reason and similar files if it cannot be read."""
        try:
            mode = self.file.stat().st_mode  # before opening: a pipe may block forever, and some devices never end
            if kind := next((kind for test, kind in _KINDS.items() if test(mode)), None):
                raise ConfigError(f"{self} is {kind}, not a file.{f' {self._nearby()}' if kind == 'a folder' else ''}")
            with self.file.open("rb") as file:
                found = file.read(LARGEST + 1)
            if len(found) > LARGEST:
                raise ConfigError(f"{self} is larger than {LARGEST // 1000:,} kB, the limit for a config.")
            return found.decode("utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{self} does not exist. {self._nearby()}") from None
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            byte = error.object[error.start]
            raise ConfigError(f"{self}:{line}: not UTF-8 text (byte 0x{byte:02x}).") from None
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            why = getattr(error, "strerror", None) or error
            raise ConfigError(f"{self} cannot be read: {why}.") from None

    def _nearby(self) -> str:
        """Suggest configs with a similar name, in the folder or in any plugin; else list the folder."""
        if self.namespace:
            question = _did_you_mean(str(self), map(str, installed_configs()))
            return f"{question} `reidx recipes` lists the installed configs.".lstrip()
        namesakes = [str(other) for other in installed_configs() if PurePath(other.name).stem == PurePath(self.name).stem]
        folder = self.file if self.file.is_dir() else self.file.parent
        if not folder.is_dir():
            return f"The folder {folder} does not exist either. {_did_you_mean(self.name, namesakes)}".rstrip()
        shown = PurePath(self.name) if self.file.is_dir() else PurePath(self.name).parent
        names = sorted(str(shown / path.name) for path in folder.glob("*.y*ml"))
        question = "" if self.file.is_dir() else _did_you_mean(self.name, names) or _did_you_mean(self.name, namesakes)
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        return question or f"Configs there: {', '.join(names[:20]) or 'none'}{more}."


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    """Ask "Did you mean …?" for configs with a similar file name, the nearest folder first."""
    places = {_place(other): other for other in names}
    stems: dict[str, list[str]] = {}
    for place in places:  # compare file names first: shared folders would make all paths similar
        stems.setdefault(place.rpartition("/")[2], []).append(place)
    place = _place(name)
    close = [other for stem in closest(place.rpartition("/")[2], stems) for other in stems[stem]]
    nearest = closest(place, close) or closest(place.partition("/")[2], close) or close
    return did_you_mean([places[other] for other in nearest])


def _place(name: str) -> str:
    return name.replace("::", "/").removesuffix(".yaml")


def installed_configs() -> list[ConfigFile]:
    """List all config files of the core and of the usable plugins, by namespace and name."""
    from reidx.registry.discovery import (
        config_roots,  # here, so that reading plain files needs no plugin discovery
    )

    return [
        ConfigFile(namespace, file.relative_to(root).as_posix(), file)
        for namespace, root in config_roots().items()
        for file in sorted(root.rglob("*.yaml"))
    ]
