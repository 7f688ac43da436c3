"""Do the parts of an experiment fit each other? Checked from the config alone, before an image is read.

Every mismatch is one :class:`ConfigError` with the config line, what is missing, and who would provide it.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from reidx.config_node import KeyPath, dotted
from reidx.config_parts import own_spec
from reidx.contracts import Contract, contract_of
from reidx.engine.objective import INPUTS, inputs_of
from reidx.errors import ConfigError, PluginError
from reidx.plugins import registry
from reidx.schema import Alignment, Level, MemoryWiring, Stage

if TYPE_CHECKING:
    from reidx.config import Config


def check_wiring(config: Config) -> None:
    """Raise :class:`ConfigError` at the first thing in any stage that does not fit the rest."""
    _folder(config, ("name",), config.experiment.name)
    names: list[str] = []
    trained: list[str] = []
    for position, stage in enumerate(config.experiment.stages):
        at = ("stages", position, "name")
        _folder(config, at, stage.name)
        if stage.name in names:
            raise ConfigError(f"{config.place(at)}: there is a stage called {stage.name!r} already; rename one.")
        _StageCheck(config, position, stage, trained).run()
        names.append(stage.name)
        if stage.epochs > 0:  # others leave no checkpoint to start from
            trained.append(stage.name)


def _folder(config: Config, at: KeyPath, name: str) -> None:
    """Raise unless ``name`` can be the name of a folder, as the names of experiments and stages are."""
    if not re.fullmatch(r"[\w][\w .+=@-]*", name) or name != name.strip():
        raise ConfigError(
            f"{config.place(at)}: {dotted(at)} is {name!r}; it names a folder, so it must begin with a letter or a digit "
            "and go on with these and any of . _ - + = @."
        )


def contract(kind: str, spec: dict[str, Any], wiring: type | None = None) -> Contract:
    """The contract of the component that a resolved spec names; ``wiring`` has the engine's own keys in it."""
    own = own_spec(spec, wiring)
    return contract_of(registry().find(kind, own.pop("type")).load(), own)


class _StageCheck:
    def __init__(self, config: Config, position: int, stage: Stage, earlier: list[str]) -> None:
        self.config, self.stage, self.earlier = config, stage, earlier
        self.base: KeyPath = ("stages", position)
        self.provided = contract("fusion", stage.model.fusion).provides
        self.networks = ["student", *stage.teachers]

    def run(self) -> None:
        stage = self.stage
        self.fusion()
        self.one_of(("init",), _stage_of(stage.init), self.earlier, "stage that trains before this one")
        for name, teacher in stage.teachers.items():
            at: KeyPath = ("teachers", name)
            self.name(at, name, ("student",))
            if teacher.type == "EMA":
                followed = [n for n in self.networks if n != name]
                self.one_of((*at, "of"), teacher.of, followed, "network to follow")
            self.one_of((*at, "weights"), _stage_of(teacher.weights), self.earlier, "stage that trains before this one")
        for name, level in stage.labels.items():
            if name == "identity":
                raise self.error(("labels", "levels", name), "'identity' are the data set's own labels; rename the level.")
            self.level(("labels", "levels", name), level)
        if stage.clip_grad == 0:
            raise self.error(("clip_grad",), "gradients clipped to 0 move no weight; leave them as they are by null.")
        if stage.epochs > 0 and not stage.streams:
            raise self.error(("streams",), "a stage that trains needs at least one stream.")
        for name, stream in stage.streams.items():
            self.domain(("streams", name, "domain"), stream.domain)
            if stream.labels is not None:
                self.one_of(
                    ("streams", name, "labels"), stream.labels, ["identity", *stage.labels], "labelling"
                )
                if stream.labels in stage.labels and stage.labels[stream.labels].domain != stream.domain:
                    raise self.error(
                        ("streams", name, "labels"),
                        f"level {stream.labels!r} labels domain {stage.labels[stream.labels].domain!r}, but the "
                        f"stream draws from {stream.domain!r}.",
                    )
            elif stream.sampler["type"] == "PK":
                raise self.error(
                    ("streams", name, "sampler"), "PK sampling needs labels; use Shuffle for an unlabelled stream."
                )
        own = {stream.domain for stream in stage.streams.values() if stream.labels == "identity"}
        if len(own) > 1:
            names = " and ".join(sorted(own))
            raise self.error(("streams",), f"one stage can use the identities of one domain, not of {names}.")
        for name, memory in stage.memories.items():
            self.memory(name, memory)
        for index, term in enumerate(stage.objective):
            self.term(index, term)
        if stage.epochs > 0 and not stage.objective:
            raise self.error(("objective",), "a stage that trains needs at least one term.")
        if stage.epochs > 0 and all(term["from_epoch"] >= stage.epochs for term in stage.objective):
            raise self.error(
                ("objective",), f"no term begins within the stage's {stage.epochs} epochs (from_epoch counts from 0)."
            )
        for index, alignment in enumerate(stage.alignment):
            self.alignment(index, alignment)
        evaluate = stage.evaluate
        if evaluate.domain is not None:
            self.domain(("evaluate", "domain"), evaluate.domain)
            self.one_of(("evaluate", "network"), evaluate.network, self.networks, "network")
            self.feature(("evaluate", "on"), evaluate.on)

    # ---- the parts

    def fusion(self) -> None:
        """Raise if the fusion must be given a teacher's map and there is no teacher to give it."""
        name = self.stage.model.fusion["type"]
        forward = registry().find("fusion", name).load().forward  # type: ignore[attr-defined]
        wanted = inspect.signature(forward).parameters.get("teacher")
        averaged = any(t.type == "EMA" and t.of == "student" for t in self.stage.teachers.values())
        if wanted is not None and wanted.default is wanted.empty and not averaged:
            raise self.error(
                ("model", "fusion"),
                f"{name} works on the map of a teacher too; give the stage one: teachers: {{mean: {{type: EMA}}}}.",
            )

    def level(self, at: KeyPath, level: Level) -> None:
        if level.domain is None:
            raise self.error(at, "domain is missing: which domain is labelled?")
        self.domain((*at, "domain"), level.domain)
        self.one_of((*at, "network"), level.network, self.networks, "network")
        self.feature((*at, "on"), level.on)
        needs = contract("clusterer", level.clusterer).needs
        if needs == "graph" and level.distance is None:
            raise self.error((*at, "distance"), f"{level.clusterer['type']} works on a graph; give a distance.")
        if level.distance is not None:
            self.needs((*at, "distance"), "distance", level.distance)
        for index, refiner in enumerate(level.refiners):
            self.needs((*at, "refiners", index), "refiner", refiner)

    def memory(self, name: str, memory: dict[str, Any]) -> None:
        at: KeyPath = ("memories", name)
        self.name(at, name)
        self.one_of((*at, "network"), memory["network"], self.networks, "network")
        self.feature((*at, "on"), memory["on"])
        self.one_of((*at, "labels"), memory["labels"], ["identity", *self.stage.labels], "labelling")
        if not any(stream.labels == memory["labels"] for stream in self.stage.streams.values()):
            raise self.error(
                (*at, "labels"), f"no stream is labelled by {memory['labels']!r}, so nothing would reach it."
            )
        self.needs(at, "memory", memory, wiring=MemoryWiring)

    def term(self, index: int, term: dict[str, Any]) -> None:
        at: KeyPath = ("objective", index)
        loss = registry().find("loss", term["loss"]).load()
        stream = self.stream_of(at, term)
        labels = self.stage.streams[stream].labels
        trained = ["student", *(n for n, t in self.stage.teachers.items() if t.type == "Peer")]
        self.one_of((*at, "network"), term["network"], trained, "network that is trained")
        self.feature((*at, "on"), term["on"])
        needed, optional = inputs_of(loss)
        for unknown in sorted((needed | optional) - set(INPUTS)):
            raise PluginError(
                f"loss {term['loss']}: its forward asks for {unknown!r}; a loss may ask for {', '.join(INPUTS)}."
            )
        self.one_of((*at, "memory"), term["memory"], self.stage.memories, "memory")
        self.one_of((*at, "against"), term["against"], self.networks, "network")
        if needed & {"scores", "teacher_scores"} and term["memory"] is None:
            raise self.error(at, f"{term['loss']} compares with a memory: say which (memory: NAME).")
        if term["memory"] is not None:
            memory = self.stage.memories[term["memory"]]
            if "targets" in needed | optional and memory["labels"] != labels:
                raise self.error(
                    (*at, "memory"),
                    f"memory {term['memory']!r} holds labels {memory['labels']!r}, stream {stream!r} carries {labels!r}.",
                )
        if needed & {"teacher", "teacher_scores"} and term["against"] is None:
            raise self.error(at, f"{term['loss']} compares with a teacher: say which (against: NAME).")
        if "targets" in needed and labels is None:
            raise self.error(at, f"{term['loss']} needs labels, but stream {stream!r} has none.")
        if "targets" in needed and labels in self.stage.labels:
            self.no_outliers(at, term, stream, self.stage.labels[labels])
        if "soft_targets" in needed and (labels is None or labels == "identity"):
            raise self.error(at, f"{term['loss']} needs soft targets, which a refiner of a label level gives.")

    def no_outliers(self, at: KeyPath, term: dict[str, Any], stream: str, level: Level) -> None:
        """Raise if images that are in no cluster (label −1) would reach a loss that has nothing to compare them with."""
        sampler = self.stage.streams[stream].sampler
        memory = self.stage.memories.get(term["memory"])
        left_over = contract("clusterer", level.clusterer).outliers == "emits"
        for refiner in level.refiners:
            left_over = left_over and contract("refiner", refiner).outliers != "never"
        kept = memory is not None and contract("memory", memory, MemoryWiring).outliers == "keep"
        if left_over and not kept and contract("sampler", sampler).outliers == "draw":
            raise self.error(
                at,
                f"{term['loss']} has no target for outliers (label −1), which {level.clusterer['type']} leaves and sampler "
                f"{sampler['type']} of stream {stream!r} draws. Use PK, or a clusterer that leaves none.",
            )

    def stream_of(self, at: KeyPath, term: dict[str, Any]) -> str:
        """The stream a term looks at: the one it names, or the only one."""
        streams = self.stage.streams
        if term["stream"] is not None:
            self.one_of((*at, "stream"), term["stream"], streams, "stream")
            return term["stream"]
        if len(streams) != 1:
            raise self.error(at, f"say which stream it looks at (stream: {' or '.join(streams) or 'none here'}).")
        return next(iter(streams))

    def alignment(self, index: int, alignment: dict[str, Any]) -> None:
        at: KeyPath = ("alignment", index)
        for side in ("source", "target"):
            self.one_of((*at, side), alignment[side], self.stage.streams, "stream")
        self.needs(at, "alignment", alignment, wiring=Alignment)

    # ---- what is asked again and again

    def needs(self, at: KeyPath, kind: str, spec: dict[str, Any], wiring: type | None = None) -> None:
        """Raise unless the features that a component requires are provided by the fusion."""
        missing = contract(kind, spec, wiring).requires - self.provided
        if missing:
            raise self.error(
                at,
                f"{spec['type']} needs {', '.join(map(repr, sorted(missing)))}, which fusion "
                f"{self.stage.model.fusion['type']} does not provide (it provides {', '.join(sorted(self.provided))})."
                f"{_providers(missing)}",
            )

    def feature(self, at: KeyPath, name: str) -> None:
        if name not in self.provided:
            raise self.error(
                at,
                f"fusion {self.stage.model.fusion['type']} has no feature {name!r}; it provides "
                f"{', '.join(sorted(self.provided))}.{_providers({name})}",
            )

    def name(self, at: KeyPath, name: str, taken: Collection[str] = ()) -> None:
        """Raise unless ``name`` can be that of a module within the model."""
        if not re.fullmatch(r"\w[\w-]*", name) or hasattr(nn.ModuleDict, name) or name in taken:
            raise self.error(at, f"{name!r} cannot be used as a name here; choose another, of letters, digits, _ and -.")

    def domain(self, at: KeyPath, name: str) -> None:
        self.one_of(at, name, self.config.experiment.data.domains, "domain in data.domains")

    def one_of(self, at: KeyPath, name: str | None, known: Iterable[str], what: str) -> None:
        known = list(known)
        if name is None or name in known:
            return
        close = difflib.get_close_matches(name, known, n=2)
        hint = f"Did you mean {' or '.join(close)}?" if close else f"There is: {', '.join(known) or 'none'}."
        raise self.error(at, f"there is no {what} called {name!r}. {hint}")

    def error(self, at: KeyPath, message: str) -> ConfigError:
        path = (*self.base, *at)
        return ConfigError(f"{self.config.place(path)}: {dotted(path)}: {message}")


def _stage_of(reference: str | None) -> str | None:
    """The NAME of ``stage:NAME``; None for anything else."""
    return reference.removeprefix("stage:") if reference and reference.startswith("stage:") else None


def _providers(missing: Collection[str]) -> str:
    """A sentence naming the installed fusions that provide all that is missing."""
    found = []
    for entry in registry().entries("fusion"):
        try:
            if set(missing) <= contract_of(entry.load(), entry.component.example).provides:
                found.append(entry.name)
        except Exception:  # a broken stranger must not hide the user's mistake
            continue
    return f" Installed fusions that do: {', '.join(found)}." if found else " No installed fusion does."
