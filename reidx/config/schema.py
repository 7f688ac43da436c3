"""Schema of an experiment: every config key with its type, default and meaning.

:mod:`reidx.config.config` fills these dataclasses from a file and checks each value against the annotation.
A field made by :func:`part` holds the spec of a component (``{type: Name, …}``) of the given kind; the keys of its
constructor are checked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Spec = dict[str, Any]

IDENTITY = "identity"
"""The name of the labelling by the data set's own identities."""


def names_in(names: str | list[str] | None) -> list[str]:
    """Return the names in a key that holds one name, several or none."""
    return [names] if isinstance(names, str) else list(names or [])


def memory_streams(
    memory: Mapping[str, Any], labels: Mapping[str, str | None], network_streams: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the streams that update a memory: those it names, or all with its labels that its networks see.

    ``memory`` has the keys of :class:`MemorySlot`; ``labels`` maps each stream to its labels, ``network_streams`` maps a
    network to its streams if it does not see all.
    """
    there = [name for name, its in labels.items() if its == memory["labels"]]
    for network in names_in(memory["network"]):
        there = [name for name in there if name in network_streams.get(network, there)]
    return names_in(memory.get("stream")) or there


def part(
    kind: str,
    default: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    optional: bool = False,
    present: bool = True,
) -> Any:
    """Field for one component of ``kind``, which is ``default`` with ``arguments`` where a config does not name it.

    ``optional`` allows null. Without ``present`` a missing key means null, and ``default`` is for a mapping without a name.
    """
    spec = None if default is None else {"type": default, **(arguments or {})}
    metadata = {"kind": kind, "component": spec, "optional": optional}
    if spec is None:
        return field(metadata=metadata)
    if not present:
        return field(default=None, metadata=metadata)
    return field(default_factory=lambda: dict(spec), metadata=metadata)


def parts(kind: str, container: type = list) -> Any:
    """Field for a list (or a mapping by name) of components of ``kind``."""
    return field(default_factory=container, metadata={"kind": kind, "container": container})


def number(default: Any, least: float, most: float | None = None) -> Any:
    """Field for a number (or several) of at least ``least`` and at most ``most``."""
    return field(default=default, metadata={"least": least, "most": most})


RERANKER = "KReciprocal"
"""The re-ranking of a config, or a test, that asks for one without a name."""

MOST = 10**9
"""Upper limit for epochs, steps and batches. A run of a year has some 10 million steps."""


@dataclass
class Data:
    """Domains, and settings for reading their images.

    Relative paths, here and elsewhere in a config, are relative to the working directory: a config may be inside a package.
    """

    domains: dict[str, Spec] = parts("dataset", dict)
    """Data sets by name; streams, labellings and evaluation refer to these names."""
    image_size: tuple[int, int] = number((256, 128), 1, 10_000)
    """Height and width in pixels."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Interpolation for resizing images to ``image_size``."""
    workers: int = number(0, 0, 1000)
    """Number of processes that decode images; 0: threads of the main process decode them."""
    cache_gb: float = number(6.0, 0)
    """Memory for decoded images (uint8, at image_size) of all domains, in GB of 2³⁰ bytes; others are decoded each time."""
    cache_on: Literal["host", "device"] = "host"
    """Location of the training images: ``device`` saves the copy to the GPU in each step, uses as much GPU memory as they take
    up, and is an error if they do not fit."""


@dataclass
class Model:
    """A network: a backbone, and a fusion that computes features from its map."""

    backbone: Spec = part("backbone")
    fusion: Spec = part("fusion", "GlobalPool")
    bn_group: int | None = number(64, 2)
    """Number of images per group for the training statistics of BatchNorm, on any number of devices; null: the whole batch."""
    freeze: list[str] = field(default_factory=list)
    """Modules (and single parameters) that are not trained, by name in the network, with wildcards ``*``, ``?`` and ``[…]``:
    ``backbone.model.layer[12]``. They stay in evaluation mode: their BatchNorms keep their statistics."""
    domain_bn: bool = False
    """Give each training domain of the stage separate BatchNorms (weights and statistics), with equal initial values."""


@dataclass
class Teacher:
    """A second network: an EMA of another, a frozen one, or a peer that is trained too."""

    type: Literal["EMA", "Frozen", "Peer"]
    """EMA: moving average of another network's weights; Frozen: fixed weights; Peer: trained alongside the student."""
    of: str = "student"
    """EMA: the network it follows."""
    momentum: float = number(0.999, 0, 1)
    """EMA: the share of its weights that is kept in each step."""
    warmup: bool = True
    """EMA: momentum min(1 − 1/(t+1), momentum) at step t, which makes the first step a copy."""
    batch_norm: Literal["own", "copy"] = "own"
    """EMA: running statistics of the EMA's forward passes (``own``), or a copy of those of the network that it follows."""
    weights: str | None = None
    """Frozen, Peer: source of the weights (``stage:NAME`` or a file); null: same as the student's ``init``."""
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
    """Further streams by name, each with the same images in the same order under a different transform."""


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
    """Cluster this memory's entries for all images instead of extracting ``feature``; the first labelling, for which the
    memory is still empty, extracts the feature."""
    distance: Spec | None = part("distance", "Jaccard", optional=True)
    clusterer: Spec = part("clusterer", "DBSCAN")
    refiners: list[Spec] = parts("refiner")
    relabel_every: int = number(1, 1)
    """Number of epochs between labellings."""
    flip: bool = False
    """Average the features of each image and its mirror image."""
    monitor: bool = False
    """Compare the labels with the true identities (reporting only; noted on the card)."""
    save: bool = False
    """Write the labels of each epoch to ``labels_EPOCH.parquet`` in the stage's folder; needs pyarrow."""


@dataclass
class MatchingSlot:
    """A matcher, and the labellings whose clusters it matches."""

    matcher: Spec = part("matcher")
    labellings: list[str] = field(default_factory=list)
    """Two or more labellings, in the order in which the matcher gets them."""


def connected(groups: Iterable[Sequence[str]], names: Iterable[str]) -> set[str]:
    """Return the names, and those that groups connect with them, directly or through other groups."""
    found, reached = set(names), -1
    groups = list(groups)
    while len(found) > reached:
        reached = len(found)
        found = found.union(*(group for group in groups if found.intersection(group)))
    return found


@dataclass
class MemorySlot:
    """A memory, with the network, feature, labels and streams that it stores."""

    memory: Spec = part("memory")
    network: str | list[str] = "student"
    """The network whose features are stored; of several networks, the mean of their L2-normalised features."""
    feature: str = "embed"
    """The feature that is stored."""
    labels: str = "main"
    """The labelling whose labels its rows stand for."""
    stream: str | list[str] | None = None
    """The streams that update it; null: all streams with its labels that its networks see. A stream of another labelling
    updates the clusters that a matcher of both gives to its images as ``other_labels``."""
    when: Literal["after", "before"] = "after"
    """Time of the update in a step: after the optimiser's step, or before the objective is computed."""


@dataclass
class Ramp:
    """A weight that changes from one value to another over some epochs."""

    epochs: int = field(metadata={"least": 1, "most": MOST})
    """Number of epochs in which the weight changes."""
    from_: float = 0.0
    """The value before epoch ``from_epoch``."""
    to: float = 1.0
    """The value from epoch ``from_epoch + epochs`` on."""
    from_epoch: int = number(0, 0, MOST)
    """The first epoch of the change, counted from 0."""
    shape: Literal["linear", "cosine", "sigmoid", "dann"] = "linear"
    """Share of the way at t, from 0 to 1. ``linear``: t; ``cosine``: (1 − cos(πt)) / 2; ``sigmoid``: exp(−5(1 − t)²), by Laine
    and Aila (2017), which begins at 0.007; ``dann``: 2 / (1 + exp(−10t)) − 1, by Ganin et al. (2016), which ends at 0.9999."""


@dataclass
class Term:
    """One term of the objective: a loss, its inputs, its weight, and the epochs in which it is active."""

    loss: Spec = part("loss")
    stream: str | list[str] | None = None
    """One stream, or several, whose images are concatenated; null: the only one."""
    network: str = "student"
    """The network that computes the loss's features."""
    feature: str = "embed"
    """The feature passed to the loss as ``features``."""
    labels: str | None = None
    """The labelling that gives the targets; null: that of the stream."""
    memory: str | list[str] | None = None
    """The memory that gives the scores. Scores of several memories are concatenated; a target is offset to the columns of its
    own memory."""
    teacher: str | None = None
    """The network to compare with: a teacher, or the student itself by another feature."""
    teacher_stream: str | list[str] | None = None
    """The stream of the teacher's images, one for each of ``stream``: another view of the same images; null: same as
    ``stream``."""
    teacher_feature: str | None = None
    """The teacher's feature; null: same as ``feature``."""
    teacher_memory: str | list[str] | None = None
    """The memory that scores the teacher's feature; null: same as ``memory``."""
    weight: float | Ramp = 1.0
    """The factor of the loss in the objective: a number, or a mapping whose values change by epoch."""
    from_epoch: int = number(0, 0)
    """The first epoch with the term, counted from 0."""
    until_epoch: int | None = number(None, 1)
    """The first epoch without the term, counted from 0; null: active to the end."""


@dataclass
class AlignmentSlot:
    """An alignment, the streams of its two domains, its weight, and its first epoch."""

    alignment: Spec = part("alignment")
    source: str = "source"
    """The stream of the first domain."""
    target: str = "target"
    """The stream of the second domain."""
    weight: float | Ramp = 1.0
    """The factor of the alignment in the objective: a number, or a mapping whose values change by epoch."""
    from_epoch: int = number(0, 0)
    """The first epoch with the alignment, counted from 0."""


SLOTS: dict[str, type] = {"loss": Term, "memory": MemorySlot, "matcher": MatchingSlot, "alignment": AlignmentSlot}
"""Sections with a component and further keys, by kind of component, which is also its key."""


@dataclass
class Optimization:
    """Settings of the engine: rates of parameter groups, the state to start from, the batch that ``lr`` is stated for."""

    layer_decay: float | None = number(None, 0, 1)
    """Ratio of the learning rates of a backbone's layer and the layer above it; modules outside backbones use ``lr``."""
    no_decay_norm_bias: bool = False
    """No weight decay for norms, biases and other vectors."""
    rates: dict[str, float] = field(default_factory=dict)
    """Factors on the learning rate of modules (named as in ``model.freeze``) and memories:
    ``{backbone: 0.1, memories.rows: 10}``."""
    state_from: str | None = None
    """``stage:NAME``: start with the optimiser's state (moments) at the end of that stage."""
    restart_every: int | None = number(None, 1)
    """Number of epochs after which the optimiser's state is cleared, repeatedly; null: never."""
    lr_batch: int | None = number(None, 1)
    """Images in a step that ``lr`` is stated for, over all processes. It scales nothing: the run reports streams with a
    different number, and the card records both."""


@dataclass
class Evaluate:
    """Retrieval on a domain's query and gallery."""

    domain: str | None = None
    """The domain whose query and gallery are compared; null: no evaluation."""
    protocol: Spec = part("protocol", "Market1501")
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """The distance for ranking the gallery."""
    network: str = "student"
    """The network that is tested."""
    feature: str = "embed"
    """The feature that is compared."""
    flip: bool = False
    """Average the features of each image and its mirror image."""
    before: bool = False
    """Evaluate also before the first epoch (direct transfer)."""
    every: int = number(0, 0)
    """Number of epochs between evaluations; 0: only after the last epoch."""
    rerank: Spec | None = part("reranker", RERANKER, optional=True, present=False)
    """Report metrics after this re-ranking, too; ``{}``: ``KReciprocal`` with the paper's values; null: none."""
    domain_probe: str | None = None
    """A feature on which a linear classifier is trained to separate the stage's two domains (reporting only); training and
    test identities are disjoint, by the identities of both data sets."""


@dataclass
class Stage:
    """One training run of the experiment."""

    name: str
    """The name of the stage, for other stages and ``--set``."""
    epochs: int = number(50, 0, MOST)
    """Number of epochs; 0: only evaluate."""
    iters: int = number(200, 1, MOST)
    """Optimiser steps per epoch."""
    init: str | None = None
    """Source of the student's weights: ``stage:NAME``, a file, or null (the backbone's initial weights)."""
    calibrate: int = number(0, 0, MOST)
    """Batches of each stream's domain that pass through the networks before the first labelling, to estimate the statistics of
    BatchNorms that have none yet."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the networks. ``auto``: bf16 if the device multiplies it faster, else fp32; a run keeps its choice."""
    feature_dtype: Literal["fp32", "fp16"] = "fp32"
    """Number format of a domain's features, as stored for labelling and for resets of memories."""
    joint: bool = False
    """Run one forward pass over the images of all streams together instead of one per stream."""
    clip_grad: float | None = number(None, 0)
    """Gradient limit: on the norm over all trained parameters (``clip_by: norm``), or on each element (``value``); null:
    no clipping."""
    clip_by: Literal["norm", "value"] = "norm"
    """Quantity that ``clip_grad`` limits: the norm of the gradients, or the absolute value of each element."""
    grad_cache_chunks: int = number(1, 1, MOST)
    """Number of parts in which a step's batch passes through the networks: the loss is that of the whole batch, memory is
    needed for one part, and each image is passed forward twice. A part must hold whole groups of ``model.bn_group``."""
    compile: Literal[False, True, "max-autotune-no-cudagraphs"] = False
    """Compile backbone and fusion with torch: takes some minutes at first, then each step is faster. A name is a mode of
    torch; modes with CUDA graphs are excluded because they overwrite the features of one stream with those of another."""
    model: Model = field(default_factory=Model)
    teachers: dict[str, Teacher] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    network_streams: dict[str, list[str]] = field(default_factory=dict)
    """Streams (and views) that pass through a network, by its name; a network not listed here sees all."""
    labels: dict[str, Labelling] = field(default_factory=dict, metadata={"below": ("labellings",)})
    matching: list[MatchingSlot] = field(default_factory=list)
    memories: dict[str, MemorySlot] = field(default_factory=dict)
    objective: list[Term] = field(default_factory=list)
    alignment: list[AlignmentSlot] = field(default_factory=list)
    optimizer: Spec = part("optimizer", "Adam", {"lr": 3.5e-4, "weight_decay": 5e-4})
    """An optimiser of torch, timm or a plugin, with its arguments."""
    optimization: Optimization = field(default_factory=Optimization)
    schedule: list[Spec] = parts("schedule")
    """Schedules of the learning rate, of mmengine or a plugin, in order. ``begin`` and ``end`` count epochs, or steps of the
    stage with ``by_epoch: false``; by default, ``end`` is that of the stage."""
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def domains(self) -> list[str]:
        """Domains of the stage's streams."""
        return list(dict.fromkeys(stream.domain for stream in self.streams.values()))

    @property
    def domains_seen(self) -> list[str]:
        """Domains whose images pass through a network: those of streams and labellings, and that of the evaluation."""
        named = (*self.domains, *(labelling.domain for labelling in self.labels.values()), self.evaluate.domain)
        return list(dict.fromkeys(domain for domain in named if domain is not None))

    def streams_of_term(self, term: Term) -> list[str]:
        """Return the streams of a term: those it names, or the only one."""
        return names_in(term.stream) or list(self.sources)[:1]

    def labels_of(self, term: Term, stream: str) -> str | None:
        """Return the labelling of a stream's images in a term: the term's own, or the stream's."""
        return term.labels or self.sources[stream].labels

    def named_labellings(self, stream: str) -> list[str]:
        """Return the labellings named by terms on the stream or its views."""
        names = {stream, *self.streams[stream].views}
        return sorted({term.labels for term in self.objective if term.labels and names & set(self.streams_of_term(term))})

    def matched_with(self, labelling: str) -> list[str]:
        """Return a labelling and those that are processed together with it, because matchings connect them."""
        return sorted(connected((slot.labellings for slot in self.matching), [labelling]))

    @property
    def sources(self) -> dict[str, Stream]:
        """Streams by name, including the names of their views."""
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
    """Seed of all random numbers."""
    log: list[Spec] = field(
        default_factory=lambda: [{"type": "tensorboard"}], metadata={"catalogue": "log back-end"}
    )
    """Back-ends for the curves: ``tensorboard``, ``wandb``, ``mlflow``, each a name or a mapping with mmengine's options."""
    description: str = ""
    """Free text, which the card repeats."""


def term_names(stage: Stage) -> list[str]:
    """Return the names of a stage's terms, then of its alignments; repeated names are numbered (``Triplet#2``)."""
    names: list[str] = []
    for wanted in [*(term.loss["type"] for term in stage.objective), *(slot.alignment["type"] for slot in stage.alignment)]:
        same = sum(name == wanted or name.startswith(f"{wanted}#") for name in names)
        names.append(f"{wanted}#{same + 1}" if same else wanted)
    return names
