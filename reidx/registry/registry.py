"""The kinds of components, and the registry that finds a component by kind and name.

This module does not import torch: a component is a reference (kind, name, ``"module:Class"``) that :meth:`Entry.load`
resolves, so that listing a hundred components costs no more than reading their names.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reidx.contracts import declaration_fault, declared_by
from reidx.errors import ConfigError, PluginError, excerpt, suggest
from reidx.outline.outline import outline
from reidx.registry.constructor import constructor_fault, place_of
from reidx.registry.describing import one_line, raised_on_purpose
from reidx.registry.library import UNFIT, library
from reidx.registry.loading import report_if_slow

SLOW = 10.0
"""Seconds after which a slow import of a component's module, with its dependencies, is reported."""


@dataclass(frozen=True)
class Kind:
    """A kind of component, with its inputs and results."""

    name: str
    given: str
    returns: str
    context: tuple[str, ...] = ()
    """Constructor arguments that the core supplies if a class has them; a config cannot set these."""
    results: Mapping[str, str] = field(default_factory=dict)
    """Result of each method, as the name of a check in :mod:`reidx.registry.promises`."""
    early: bool = False
    """True if :data:`CONTEXT` suffices to build a component: its values are then checked before any data are read."""


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "dataset",
            "a folder or a table",
            "the images of a domain: train, query, gallery with ids and cameras",
            ("progress",),
        ),
        Kind(
            "transform",
            "uint8 images (B,3,H,W), on any device",
            "normalised floats (B,3,H,W)",
            ("image_size", "mean", "std", "rank", "world_size"),
            results={"batch": "network input"},
            early=True,
        ),
        Kind(
            "sampler",
            "labels and cameras of a stream",
            "batches of sample positions",
            ("labels", "cameras", "images", "batches", "rank", "world_size"),
        ),
        Kind(
            "backbone",
            "images (B,3,H,W); cameras and other columns by name",
            "feature map (B,C,h,w), and tokens by name; declares out_channels, nonnegative",
            ("image_size",),
            results={"forward": "map"},
        ),
        Kind(
            "fusion",
            "the map of a network; by name the tokens of the backbone, and the map of a teacher",
            "Features: named tensors and `embed`",
            ("in_channels", "token_dims", "tail"),
            results={"forward": "features"},
        ),
        Kind(
            "distance",
            "features (N,D), or several of them by name",
            "sparse graph of distances (N,N)",
            ("device", "sharded"),
            early=True,
        ),
        Kind(
            "clusterer",
            "a graph, or features",
            "labels (N,) int64, -1 = outlier, 0..K-1 without gaps",
            ("seed",),
            results={"__call__": "labels"},
            early=True,
        ),
        Kind(
            "refiner",
            "labels, features, graph, history",
            "labels, per-sample weights, soft targets",
            ("device", "sharded"),
            results={"__call__": "label set"},
            early=True,
        ),
        Kind(
            "matcher",
            "the labels of several labellings, with features and history of each",
            "a label set for each, with arrays per image",
            ("device", "sharded", "labellings"),
            results={"__call__": "label sets"},
            early=True,
        ),
        Kind(
            "memory",
            "features and labels of all images at reset, batch features at update",
            "scores (B,K)",
            ("dim",),
            results={"forward": "scores", "reset": "provided"},
        ),
        Kind(
            "loss",
            "features, targets, scores, teacher outputs",
            "a scalar",
            results={"forward": "scalar"},
            early=True,
        ),
        Kind(
            "alignment",
            "source and target features",
            "a scalar, or several by name; may own parameters",
            ("dims", "steps"),
            results={"forward": "scalars"},
        ),
        Kind(
            "protocol",
            "ids and cameras of query and gallery",
            "a mask of the gallery images that each query ignores; may draw trials and have metrics",
            results={"ignored": "ignored", "draw_trials": "trials", "measure": "measured", "summarise": "summary"},
            early=True,
        ),
        Kind(
            "reranker",
            "features of query and gallery; cameras and other columns by name",
            "a re-ranking: factors and offsets of the squared distances",
            results={"__call__": "reranking", "block": "reranked block"},
            early=True,
        ),
        Kind("weights", "the tensors of a file by name", "a renaming of these tensors, or None for a file in another layout"),
        Kind("optimizer", "parameters and their gradients", "new values of the parameters, written by step()", ("params",)),
        Kind("schedule", "an optimiser", "its learning rates for the next epoch or step, written by step()", ("optimizer",)),
    )
}

CONTEXT: dict[str, tuple[Any, ...]] = {
    "params": ([],),
    "optimizer": (object(),),
    **dict.fromkeys(("rank", "seed"), (0,)),
    **dict.fromkeys(("images", "batches", "world_size", "in_channels", "dim", "steps"), (1,)),
    **dict.fromkeys(("mean", "std"), ((0.5, 0.5, 0.5),)),
    **dict.fromkeys(("labels", "cameras"), (object(), (0,))),  # arrays, which an annotation may declare as a sequence
    **dict.fromkeys(("progress", "tail"), (object(),)),
    "image_size": ((256, 128),),
    "device": ("cpu",),
    "sharded": (False,),
    "dims": ({"embed": 1},),
    "token_dims": ({"class_token": 1},),
    "labellings": (("main", "other"),),
}
"""Example values for the names in :attr:`Kind.context`; an argument must accept at least one."""


@dataclass(frozen=True)
class Component:
    """A component of a kind: the location of its class, and an example config.

    ``target`` is ``"module:Class"``; ``example`` holds the keywords of a spec, for ``reidx show`` and the conformance
    tests, without those that the core supplies (such as ``in_channels``).
    """

    kind: str
    name: str
    target: str
    example: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A registered component with its full name (``namespace.Name``, or ``Name`` in the core) and origin."""

    component: Component
    namespace: str
    distribution: str
    from_library: bool = False
    """True for a class of :mod:`reidx.registry.library`."""

    @property
    def name(self) -> str:
        return f"{self.namespace}.{self.component.name}" if self.namespace else self.component.name

    @property
    def kind(self) -> str:
        return self.component.kind

    def load(self) -> type:
        """Import and return the class.

        Raises :class:`PluginError` with the component and its distribution if the module cannot be imported, has no such
        class, or the class has an argument that a config cannot set or a declaration without effect.
        """
        module_name, _, attribute = self.component.target.partition(":")
        where = f"{self.kind} {self.name} (from {self.distribution}, {self.component.target})"
        try:
            module = self._imported(module_name)
        except BaseException as error:  # a module may even call sys.exit
            if isinstance(error, KeyboardInterrupt) and not raised_on_purpose(error):
                raise
            if isinstance(error, PluginError):
                raise PluginError(f"{where}: {error}.") from error
            raise PluginError(
                f"{where} cannot be imported: {type(error).__name__}: {one_line(error)}. "
                f"Install the missing package, or fix {module_name}."
            ) from error
        try:
            component = getattr(module, attribute)
        except AttributeError:
            raise PluginError(f"{where}: the module {module_name} has no {attribute!r}.") from None
        if fault := self._fault(component):
            raise PluginError(f"{where}: {fault}.")
        return component

    def _imported(self, module: str) -> Any:
        if not self.namespace or module in sys.modules:
            return importlib.import_module(module)
        name = f"reidx: loading {self.kind} {self.name} (from {self.distribution}, module {module})"
        advice = "leave the plugin out with REIDX_PLUGINS, a list of the others"
        return report_if_slow(name, advice, lambda: importlib.import_module(module), SLOW)

    def class_or_outline(self) -> type:
        """Return the class, or its outline (:mod:`reidx.outline.outline`) if torch is not imported yet.

        Both have the signatures and the contract. Raises as :meth:`load` if there is no outline.
        """
        known = None if "torch" in sys.modules else outline(self.component.target)
        return self.load() if known is None or self._fault(known) else known

    def _fault(self, component: type) -> str:
        """Explain why a config cannot set all arguments of the constructor, or a declaration has no effect; else empty."""
        return _fault_of(self.kind, component)


@functools.cache  # a config looks at the same few classes thousands of times
def _fault_of(kind: str, component: type) -> str:
    fault = constructor_fault(kind, component, {name: CONTEXT[name] for name in KINDS[kind].context})
    if fault or not isinstance(component, type) or hasattr(component, "contract"):  # that is checked for its arguments
        return fault
    fault = declaration_fault(kind, component, declared_by(component))
    return f"{fault} ({place_of(component)})" if fault and place_of(component) else fault


MOVED = {("dataset", "Synthetic"): "synthetic.People"}
"""Present names of components that moved to a plugin, by kind and old name."""


class Registry:
    """Registered components by kind and full name."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        self.absent: dict[str, str] = {}  # namespace -> reason why its components are missing

    def add(self, entry: Entry) -> None:
        """Register ``entry``; raises :class:`PluginError` if its kind and name are already registered."""
        if entry.kind not in KINDS:
            raise PluginError(
                f"{entry.name} (from {entry.distribution}) is of unknown kind {entry.kind!r}; "
                f"the kinds are: {', '.join(KINDS)}."
            )
        key = (entry.kind, entry.name)
        if key in self._entries:
            raise PluginError(
                f"{entry.kind} {entry.name} is registered twice: by {self._entries[key].distribution} "
                f"and by {entry.distribution}."
            )
        self._entries[key] = entry

    def _refuse_moved(self, kind: str | None, name: str) -> None:
        """Raise :class:`ConfigError` with the present name if a component of that kind, or of any, moved to a plugin."""
        for (of, old), new in MOVED.items():
            if old == name and kind in (None, of):
                plugin = new.partition(".")[0]
                absence = "" if any(e.name == new for e in self._entries.values()) else f" {self.explain_absence(plugin)}"
                raise ConfigError(f"There is no {of} called {old!r}. It is now {new}, of the plugin {plugin}.{absence}")

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """Yield the entries by kind, the core's before the plugins', then by name."""
        order = list(KINDS)
        wanted = (entry for entry in self._entries.values() if kind in (None, entry.kind))
        yield from sorted(wanted, key=lambda e: (order.index(e.kind), e.namespace != "", e.name.lower()))

    def find(self, kind: str, name: str) -> Entry:
        """Return the entry of ``kind`` with the given name.

        Raises :class:`ConfigError` with a hint: the name is of another kind, its plugin is missing or broken (and why), or
        similar names exist.
        """
        self._refuse_moved(kind, name)
        if kind not in KINDS:
            raise ConfigError(f"There is no kind {kind!r}. The kinds are: {', '.join(KINDS)}.")
        if (kind, name) in self._entries:
            return self._entries[kind, name]
        if (target := library(kind).get(name)) is not None:
            return Entry(Component(kind, name, target), "", target.partition(".")[0], from_library=True)
        if (reason := UNFIT.get(kind, {}).get(name)) is not None:
            raise ConfigError(f"The {kind} {name} cannot train a stage: {reason}.")
        if other := [e.kind for e in self.entries() if e.name == name]:
            article = "an" if kind[0] in "aeiou" else "a"
            raise ConfigError(
                f"There is no {kind} called {name!r}. {name} is a {' and a '.join(other)}, not {article} {kind}."
            )
        raise ConfigError(f"There is no {kind} called {excerpt(name)!r}. {self._advice(name, kind)}")

    def with_name(self, name: str) -> list[Entry]:
        """Return the entries with the given name, of all kinds; raises as :meth:`find` if there are none."""
        self._refuse_moved(None, name)
        if found := [e for e in self.entries() if e.name == name]:
            return found
        if kinds := [kind for kind in KINDS if name in library(kind) or name in UNFIT.get(kind, {})]:
            return [self.find(kind, name) for kind in kinds]
        raise ConfigError(f"There is no component called {name!r}. {self._advice(name)}")

    def explain_absence(self, namespace: str) -> str:
        """Explain in a sentence why a plugin is missing, and how to install it."""
        if namespace in self.absent:
            return f"The plugin {namespace!r} is not in use: {self.absent[namespace]}."
        distribution = f"reidx-{namespace.replace('_', '-')}"
        return (
            f"No plugin called {namespace!r} is installed; if it is published under the usual name, "
            f"`pip install {distribution}` brings it. See `reidx plugins` for what is here."
        )

    def _advice(self, name: str, kind: str | None = None) -> str:
        known = list(dict.fromkeys(e.name for e in self.entries(kind)))
        known += [own for one in KINDS if kind in (None, one) for own in library(one)]
        close = suggest(name, known)
        namespace = name.partition(".")[0] if "." in name else ""
        if not namespace or any(n.startswith(f"{namespace}.") for n in [*known, *(e.name for e in self._entries.values())]):
            if close or kind is None:
                return close or "`reidx list` names all components."
            return f"Known: {', '.join(known) or 'none'}."
        slip = suggest(namespace, {e.namespace for e in self._entries.values()})
        return f"{self.explain_absence(namespace)}{f' {close}' if slip and close else ''}"
