"""The shape of an experiment: every key a config may have, its type, its default and its meaning.

The dataclasses are read by :mod:`reidx.config.config`, which fills them from a file and checks each value against the
annotation. A field made by :func:`part` holds the spec of a component (``{type: Name, …}``) of the given kind; the
keys of its constructor are checked too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Spec = dict[str, Any]

IDENTITY = "identity"
"""The name of the labelling that a data set brings with it."""


def listed(names: str | list[str] | None) -> list[str]:
    """The names that a key holds: of one, of several, or of none."""
    return [names] if isinstance(names, str) else list(names or [])


def memory_streams(
    memory: Mapping[str, Any], labels: Mapping[str, str | None], network_streams: Mapping[str, Sequence[str]]
) -> list[str]:
    """The streams that update a memory: those it names, or all of its labels that its networks see.

    ``memory`` has the keys of :class:`MemorySlot`; ``labels`` names the labels of each stream, ``network_streams`` the streams
    of those networks that do not see all.
    """
    there = [name for name, its in labels.items() if its == memory["labels"]]
    for network in listed(memory["network"]):
        there = [name for name in there if name in network_streams.get(network, there)]
    return listed(memory.get("stream")) or there


def part(kind: str, default: str | None = None, **meta: Any) -> Any:
    """A field that holds one component of ``kind``."""
    metadata = {"kind": kind, **meta}
    if default is None:
        return field(metadata=metadata)
    return field(default_factory=lambda: {"type": default}, metadata=metadata)


def parts(kind: str, container: type = list) -> Any:
    """A field that holds a list (or a mapping by name) of components of ``kind``."""
    return field(default_factory=container, metadata={"kind": kind, "container": container})


def number(default: Any, least: float, most: float | None = None) -> Any:
    """A field that holds a number (or several) of at least ``least`` and at most ``most``."""
    return field(default=default, metadata={"least": least, "most": most})


MOST = 10**9
"""The most epochs, steps or batches of anything. A run of a year has some 10 million steps."""


@dataclass
class Data:
    """The domains, and how their images are read.

    Relative paths, here as everywhere in a config, start at the working directory: a config may lie in a package.
    """

    domains: dict[str, Spec] = parts("dataset", dict)
    """The data sets, by the names that streams, labellings and evaluation use."""
    image_size: tuple[int, int] = number((256, 128), 1, 10_000)
    """Height and width in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """How images are resized to ``image_size``."""
    workers: int = number(0, 0, 1000)
    """Processes that decode images; 0 decodes in this one, with threads."""
    cache_gb: float = number(6.0, 0)
    """Memory for decoded images (uint8, at image_size), all domains together; what does not fit is decoded each time."""
    cache_on: Literal["host", "device"] = "host"
    """Where the images that are trained on are kept: ``device`` saves copying them to a GPU in each step, takes of its memory
    what they take up, and is refused when they do not fit."""


@dataclass
class Model:
    """A network: the trunk, and what makes features of its map."""

    backbone: Spec = part("backbone")
    fusion: Spec = part("fusion", "GlobalPool")
    bn_group: int | None = number(64, 2)
    """Images a BatchNorm takes its training statistics from, on one device as on many; null: the whole batch."""
    freeze: list[str] = field(default_factory=list)
    """Modules (and single parameters) that are not trained, by their names in the network, ``*``, ``?`` and ``[…]`` as in
    file names: ``backbone.model.layer[12]``. They stay in evaluation mode: their BatchNorms keep their statistics."""
    domain_bn: bool = False
    """Each domain that the stage draws from has BatchNorms of its own, weights and statistics, which start alike."""


@dataclass
class Teacher:
    """A network beside the student: an EMA of another, a frozen one, or a peer that is trained too."""

    type: Literal["EMA", "Frozen", "Peer"]
    """An average of another network's weights, a network that stays as it is, or one that is trained too."""
    of: str = "student"
    """EMA: the network it follows."""
    momentum: float = number(0.999, 0, 1)
    """EMA: the share of its own weights that each step keeps."""
    warmup: bool = True
    """EMA: momentum min(1 − 1/(t+1), momentum) at step t, which makes the first step a copy."""
    batch_norm: Literal["own", "copy"] = "own"
    """EMA: running statistics of its own forward passes, or those of the network it follows."""
    weights: str | None = None
    """Frozen, Peer: where the weights come from (``stage:NAME`` or a file); null: as the student's ``init``."""
    statistics: Literal["batch", "running"] = "running"
    """Frozen: BatchNorm by batch or by running statistics."""


@dataclass
class Stream:
    """One source of batches."""

    domain: str
    """The domain whose training images it draws."""
    labels: str | None = None
    """``identity`` (the data set's own), the name of a labelling, or null."""
    sampler: Spec = part("sampler", "PK")
    transform: Spec = part("transform", "ReidAugment")
    views: dict[str, Spec] = parts("transform", dict)
    """Further streams by name, each of the same images in the same order, under a transform of its own."""


@dataclass
class Labelling:
    """One labelling of a domain by clustering."""

    domain: str | None = None
    """The domain whose training images are labelled."""
    network: str | list[str] = "student"
    """The network whose features are clustered; of several networks, the mean of their L2-normalised features."""
    feature: str = "embed"
    """The feature that is clustered."""
    memory: str | None = None
    """Cluster the entries that this memory holds of all images instead of extracting ``feature``; the first labelling, for
    which the memory holds none yet, extracts the feature."""
    distance: Spec | None = part("distance", "Jaccard", optional=True)
    clusterer: Spec = part("clusterer", "DBSCAN")
    refiners: list[Spec] = parts("refiner")
    relabel_every: int = number(1, 1)
    """Label again at the start of every so many epochs."""
    flip: bool = False
    """Average the features of each image and its mirror image."""
    monitor: bool = False
    """Compare the labels with the true identities (for the report alone; noted on the card)."""


@dataclass
class MemorySlot:
    """A memory, and what it stores: which network's feature, under which labels, of which streams."""

    memory: Spec = part("memory")
    network: str | list[str] = "student"
    """The network whose features are stored; of several networks, the mean of their L2-normalised features."""
    feature: str = "embed"
    """The feature that is stored."""
    labels: str = "main"
    """The labelling whose labels its rows stand for."""
    stream: str | list[str] | None = None
    """The streams that update it; null: all with its labels that its networks see."""
    when: Literal["after", "before"] = "after"
    """When a step updates it: after the optimiser's step, or before the objective is computed."""


@dataclass
class Term:
    """One term of the objective: a loss, its inputs, its weight, and the epochs in which it counts."""

    loss: Spec = part("loss")
    stream: str | list[str] | None = None
    """One stream, or several, whose images are concatenated; null: the only one."""
    network: str = "student"
    """The network whose feature the loss gets."""
    feature: str = "embed"
    """The feature that the loss gets, as ``features``."""
    labels: str | None = None
    """The labelling that gives the targets; null: that of the stream."""
    memory: str | list[str] | None = None
    """The memory that gives the scores. Scores of several memories are concatenated, and a target counts from the first column
    of its own memory."""
    teacher: str | None = None
    """The network to compare with: a teacher, or the student itself by another feature."""
    teacher_stream: str | list[str] | None = None
    """The stream whose images the teacher sees, one for each of ``stream``: another view of the same images; null: as
    ``stream``."""
    teacher_feature: str | None = None
    """The teacher's feature; null: as ``feature``."""
    teacher_memory: str | list[str] | None = None
    """The memory that scores the teacher's feature; null: as ``memory``."""
    weight: float = 1.0
    """The factor of the loss in the objective."""
    from_epoch: int = number(0, 0)
    """The first epoch with the term, counted from 0."""
    until_epoch: int | None = number(None, 1)
    """The first epoch without the term, counted from 0; null: it counts to the end."""


@dataclass
class AlignmentSlot:
    """An alignment, the streams of its two domains, its weight, and its first epoch."""

    alignment: Spec = part("alignment")
    source: str = "source"
    """The stream of the one domain."""
    target: str = "target"
    """The stream of the other domain."""
    weight: float = 1.0
    """The factor of the alignment in the objective."""
    from_epoch: int = number(0, 0)
    """The first epoch with the alignment, counted from 0."""


SLOTS: dict[str, type] = {"loss": Term, "memory": MemorySlot, "alignment": AlignmentSlot}
"""The sections that hold a component beside keys of their own, by its kind, which is also its key."""


@dataclass
class Optimization:
    """Settings of the engine: rates of parameter groups, the state to start from, the batch that ``lr`` is stated for."""

    layer_decay: float | None = number(None, 0, 1)
    """Each layer of a backbone learns at this share of the rate of the layer above; all but the backbones learn at ``lr``."""
    no_decay_norm_bias: bool = False
    """No weight decay for norms, biases and other vectors."""
    rates: dict[str, float] = field(default_factory=dict)
    """Modules of the networks, by name as for ``model.freeze``, and memories, each with its share of the rate:
    ``{backbone: 0.1, memories.rows: 10}``."""
    state_from: str | None = None
    """``stage:NAME``: start with the optimiser's state (moments) at the end of that stage."""
    restart_every: int | None = number(None, 1)
    """Clear the optimiser's state at the start of every so many epochs; null: never."""
    lr_batch: int | None = number(None, 1)
    """Images in a step that ``lr`` is stated for, over all processes. Nothing is scaled by it: the run says which stream
    has another number, and the card keeps both."""


@dataclass
class Evaluate:
    """Retrieval on a domain's query and gallery."""

    domain: str | None = None
    """The domain whose query and gallery are compared; null: no evaluation."""
    protocol: Spec = part("protocol", "Market1501")
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """The distance by which the gallery is ranked."""
    network: str = "student"
    """The network that is tested."""
    feature: str = "embed"
    """The feature that is compared."""
    flip: bool = False
    """Average the features of each image and its mirror image."""
    before: bool = False
    """Evaluate before the first epoch too: the direct transfer."""
    every: int = number(0, 0)
    """Evaluate every so many epochs; 0: after the last alone."""
    domain_probe: str | None = None
    """A feature by which a linear classifier is trained, for the report alone, to tell the stage's two domains apart; it is
    tested on other people than it learns from, by the identities of both data sets."""


@dataclass
class Stage:
    """One training run of the experiment."""

    name: str
    """The name by which other stages and ``--set`` address it."""
    epochs: int = number(50, 0, MOST)
    """Epochs; 0 evaluates only."""
    iters: int = number(200, 1, MOST)
    """Optimiser steps in an epoch."""
    init: str | None = None
    """Where the student's weights come from: ``stage:NAME``, a file, or null (as the backbone was built)."""
    calibrate: int = number(0, 0, MOST)
    """Batches of each stream's domain that pass through the networks before anything is labelled, for the statistics of
    BatchNorms that begin without any."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """In what the networks compute. ``auto``: bf16 where the device multiplies it faster, else fp32; a run keeps its choice."""
    feature_dtype: Literal["fp32", "fp16"] = "fp32"
    """In what the features of a domain's images are kept for labelling and for the memories' resets."""
    joint: bool = False
    """One forward pass over the images of all streams together, instead of one a stream."""
    clip_grad: float | None = number(None, 0)
    """The largest gradient: of all trained parameters together (``clip_by: norm``, the length is cut) or of each number by
    itself (``value``); null: as it is."""
    clip_by: Literal["norm", "value"] = "norm"
    """How ``clip_grad`` limits gradients."""
    grad_cache_chunks: int = number(1, 1, MOST)
    """Parts in which a step's batch passes through the networks: the loss is that of the whole batch, memory is needed for
    one part, and each image is passed forward twice. A part must hold whole groups of ``model.bn_group``."""
    compile: Literal[False, True, "max-autotune-no-cudagraphs"] = False
    """Let torch compile backbone and fusion for the steps: some minutes first, then each step is faster. A name is torch's
    mode; those with CUDA graphs are left out, as they write the features of one stream over those of another."""
    model: Model = field(default_factory=Model)
    teachers: dict[str, Teacher] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    network_streams: dict[str, list[str]] = field(default_factory=dict)
    """The streams (and views) that pass through a network, by its name; one that is not named here sees all."""
    labels: dict[str, Labelling] = field(default_factory=dict, metadata={"below": ("labellings",)})
    memories: dict[str, MemorySlot] = field(default_factory=dict)
    objective: list[Term] = field(default_factory=list)
    alignment: list[AlignmentSlot] = field(default_factory=list)
    optimizer: Spec = field(
        default_factory=lambda: {"type": "Adam", "lr": 3.5e-4, "weight_decay": 5e-4}, metadata={"catalogue": "optimizer"}
    )
    """An optimiser of torch, with its arguments."""
    optimization: Optimization = field(default_factory=Optimization)
    schedule: list[Spec] = field(default_factory=list, metadata={"catalogue": "schedule"})
    """mmengine's schedulers of the learning rate, in their order."""
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def domains(self) -> list[str]:
        """The domains that it draws from."""
        return list(dict.fromkeys(stream.domain for stream in self.streams.values()))

    def seen_by(self, term: Term) -> list[str]:
        """The streams of a term: those it names, or the only one."""
        return listed(term.stream) or list(self.sources)[:1]

    def labels_of(self, term: Term, stream: str) -> str | None:
        """The labelling of a stream's images in a term: the term's own, or the stream's."""
        return term.labels or self.sources[stream].labels

    def named_labellings(self, stream: str) -> list[str]:
        """The labellings that terms on the stream or its views name themselves."""
        names = {stream, *self.streams[stream].views}
        return sorted({term.labels for term in self.objective if term.labels and names & set(self.seen_by(term))})

    @property
    def sources(self) -> dict[str, Stream]:
        """The streams by all names under which a step has images: their own, and those of their views."""
        views = {view: stream for stream in self.streams.values() for view in stream.views}
        return {**self.streams, **views}


@dataclass
class Experiment:
    """A whole experiment. The keys of a stage may stand here too, as defaults of every stage."""

    name: str
    """The name of the experiment, and of its folder in ``runs/``."""
    stages: list[Stage]
    data: Data = field(default_factory=Data)
    seed: int = number(1, 0, 2**32 - 1)
    """The seed of everything random."""
    log: list[Spec] = field(
        default_factory=lambda: [{"type": "tensorboard"}], metadata={"catalogue": "log back-end"}
    )
    """Where the curves of all epochs go: ``tensorboard``, ``wandb``, ``mlflow``, each a name or with mmengine's options."""
    description: str = ""
    """Text for people."""


def term_names(stage: Stage) -> list[str]:
    """The names of a stage's terms, in the order of its objective, then its alignments; of two of a kind the second is
    numbered, so that the log tells them apart."""
    names: list[str] = []
    for wanted in [*(term.loss["type"] for term in stage.objective), *(slot.alignment["type"] for slot in stage.alignment)]:
        same = sum(name == wanted or name.startswith(f"{wanted}#") for name in names)
        names.append(f"{wanted}#{same + 1}" if same else wanted)
    return names
