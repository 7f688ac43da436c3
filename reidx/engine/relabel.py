"""Relabelling: extract the features of a domain, label its images, reset the memories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx import distributed
from reidx.config.schema import IDENTITY, Labelling, names_in
from reidx.contracts import Features, LabelSet, mean_normalized, named_inputs
from reidx.data.domains import Domains
from reidx.data.loading import LabelledView, batches
from reidx.engine.extract import extract
from reidx.engine.step import StageModel
from reidx.errors import CheckpointError
from reidx.labels.pipeline import LabelPipeline, quality
from reidx.models.domain_norm import network_of_domain
from reidx.models.inference import fast_inference
from reidx.models.network import Columns
from reidx.optim.optimizer import replacing_parameters
from reidx.profiling import span
from reidx.registry.promises import expect_columns
from reidx.registry.seam import call, kind_of
from reidx.reporting.reporter import Reporter
from reidx.runs.checkpoint import digest_of
from reidx.runs.failures import error_context, oom_advice
from reidx.runs.training_state import TrainingState

First = Callable[..., dict[str, Tensor]]
"""Cache of initial features, see :class:`reidx.runs.feature_cache.FirstFeatures`."""

Source = tuple[str, str, bool]
"""Key of one extraction: domain, network, flip."""


@dataclass
class LabellingPlan:
    """A labelling with its pipeline."""

    settings: Labelling
    pipeline: LabelPipeline

    @property
    def domain(self) -> str:
        assert self.settings.domain is not None
        return self.settings.domain

    def due(self, epoch: int, known: bool) -> bool:
        """Return true if the domain must be relabelled at the start of ``epoch``."""
        return not known or epoch % self.settings.relabel_every == 0


class Extractor:
    """Feature extraction with a stage's networks in evaluation mode."""

    def __init__(
        self,
        model: StageModel,
        domains: Domains,
        transforms: Mapping[str, Callable[[Tensor], Tensor]],
        precision: str,
        kept: str,
        reporter: Reporter,
    ) -> None:
        self.model, self.domains, self.transforms = model, domains, transforms
        self.precision, self.kept, self.reporter = precision, kept, reporter
        self.first: First | None = None
        """Cache of features shared with other runs, used before the first training step."""

    @error_context("extracting features")
    @oom_advice("Lower data.image_size.")
    def features(
        self, domain: str, split: str, network: str, names: set[str], flip: bool, what: str
    ) -> dict[str, Tensor]:
        """Extract the named features of a split with ``network``; see :func:`reidx.engine.extract.extract`.

        Query and gallery are always extracted and stored in fp32, because half precision changes some ranks.
        """
        store = self.domains.images(domain, split)
        named, seen = self.domains.split(domain, split).named_columns(), self.model.networks[network].columns
        columns = {name: column for name, column in named.items() if name in seen}  # type: ignore[operator]

        def extract_all() -> dict[str, Tensor]:
            return extract(
                self._forward(network, domain),
                store,
                self.transforms[network],
                sorted(names),
                device=self.model.device,
                **settings,
                flip=flip,
                workers=self.domains.workers,
                reporter=self.reporter,
                what=what,
                columns=columns,
            )

        training = self.model.training
        settings: dict[str, Any] = {
            "precision": self.precision if split == "train" else "fp32",
            "kept": torch.float16 if split == "train" and self.kept == "fp16" else torch.float32,
        }
        self.model.eval()
        try:
            if self.first is None or self.model.steps > 0 or distributed.count() > 1:
                return extract_all()
            how = {"weights": self._weights(network), "flip": flip, **{name: str(v) for name, v in settings.items()}}
            state = torch.get_rng_state()
            extracted = self.first(domain, split, how, names, extract_all)
            if torch.equal(state, torch.get_rng_state()):  # cache hit: draw the seed that a loader would have drawn
                iter(batches(LabelledView(store, self.domains.split(domain, split).cameras, None), [], 0))
            return extracted
        finally:
            self.model.train(training)

    def _weights(self, name: str) -> str:
        """Digest of the weights that a network's features depend on."""
        network = self.model.networks[name]
        teacher = self.model.teacher_of(name) if network.wants_teacher else None
        return digest_of([n.state_dict() for n in (network, self.model.networks[teacher] if teacher else None) if n])

    def _forward(self, name: str, domain: str) -> Callable[..., Features]:
        network = fast_inference(network_of_domain(self.model.networks[name], domain))
        if not network.wants_teacher:
            return network
        followed_by = self.model.teacher_of(name)
        if followed_by is None:
            return network
        teacher = fast_inference(network_of_domain(self.model.networks[followed_by], domain))


        def forward(images: Tensor, columns: Columns = MappingProxyType({})) -> Features:
            follower: Tensor = teacher.encode(images, columns)["map"]  # type: ignore[operator]
            return network(images, follower, columns)

        return forward


class Relabeller:
    """Relabelling of a stage: updates its label sets and resets its memories."""

    def __init__(
        self,
        labellings: Mapping[str, LabellingPlan],
        model: StageModel,
        domains: Domains,
        extractor: Extractor,
        optimizer: Callable[[], torch.optim.Optimizer],
        reporter: Reporter,
    ) -> None:
        self.labellings, self.model, self.domains, self.extractor = labellings, model, domains, extractor
        self.optimizer, self.reporter = optimizer, reporter
        self.labels: dict[str, LabelSet] = {}

    def identity(self, domain: str) -> LabelSet:
        """Ground-truth labels of a domain's training images."""
        return LabelSet(self.domains.split(domain, "train").classes())

    def run(self, epoch: int, identity_domains: Mapping[str, str]) -> dict[str, float]:
        """Run the labellings due at the start of ``epoch``, reset their memories, and return the figures for the report.

        ``identity_domains`` maps each stream with ground-truth labels to its domain. These labels and their memories are set
        once.
        """
        report: dict[str, float] = {}
        due = {n: plan for n, plan in self.labellings.items() if plan.due(epoch, n in self.labels)}
        extracted: dict[Source, dict[str, Tensor]] = {}
        for source, names in self._features_to_extract(due).items():
            domain, network, flip = source
            what = f"epoch {epoch + 1}: features of {domain}"
            extracted[source] = self.extractor.features(domain, "train", network, names, flip, what)
        for name, plan in due.items():
            settings, held = plan.settings, self._memory_entries(plan)
            features = {view: _of(extracted, plan.domain, settings.network, settings.flip, view) for view in self._views(plan)}
            if held is not None:
                features = {**features, settings.feature: held}
            report.update(self._label(name, plan, features, epoch))
            self._reset(name, plan.domain, extracted, plan.settings.flip)
        for domain in dict.fromkeys(identity_domains.values()):
            if IDENTITY not in self.labels:
                self.labels[IDENTITY] = self.identity(domain)
                wanted: dict[str, set[str]] = {}
                for wiring in self._memories(IDENTITY, features_only=True).values():
                    for network in names_in(wiring["network"]):
                        wanted.setdefault(network, set()).add(wiring["feature"])
                for network, names in wanted.items():
                    what = f"features of {domain}"
                    features = self.extractor.features(domain, "train", network, names, False, what)
                    extracted[domain, network, False] = features
                self._reset(IDENTITY, domain, extracted, False)
        return report

    def _memories(self, labelling: str, features_only: bool = False) -> dict[str, Mapping[str, str]]:
        return {
            name: wiring
            for name, wiring in self.model.memory_wiring.items()
            if wiring["labels"] == labelling and (not features_only or self.model.memories[name].needs_features)
        }

    def _features_to_extract(self, due: Mapping[str, LabellingPlan]) -> dict[Source, set[str]]:
        """Names of the features to extract, by source, for clustering and for resetting memories."""
        wanted: dict[Source, set[str]] = {}
        for labelling, plan in due.items():
            memories = self._memories(labelling, features_only=True).values()
            needed = [(plan.settings.network, view) for view in self._views(plan)]
            needed += [(wiring["network"], wiring["feature"]) for wiring in memories]
            for networks, name in needed:
                for network in names_in(networks):
                    wanted.setdefault((plan.domain, network, plan.settings.flip), set()).add(name)
        return wanted

    def _views(self, plan: LabellingPlan) -> frozenset[str]:
        """Names of the features to extract for a labelling; entries of its memory need no extraction."""
        return plan.pipeline.views - ({plan.settings.feature} if self._memory_entries(plan) is not None else set())

    def _memory_entries(self, plan: LabellingPlan) -> Tensor | None:
        """Entries (N,…) of the memory that a labelling clusters, on the CPU; None without a memory or if it is empty."""
        if plan.settings.memory is None:
            return None
        memory = self.model.memories[plan.settings.memory]
        images: Tensor = call("memory", memory, "its images", getattr, memory, "images")
        return images.cpu() if len(images) else None

    @error_context("clustering")
    @oom_advice("Lower k1 of the distance, or set feature_dtype: fp16.")
    def _label(self, name: str, plan: LabellingPlan, features: dict[str, Tensor], epoch: int) -> dict[str, float]:
        domain = plan.domain
        split = self.domains.split(domain, "train")
        previous = self.labels[name].labels if name in self.labels else None
        with self.reporter.work(f"epoch {epoch + 1}: clustering {domain}", len(split)) as work:
            labels = plan.pipeline(features, epoch=epoch, cameras=split.cameras, previous=previous, columns=split.columns)
            work.advance(len(split))
        self.labels[name] = labels
        if plan.settings.monitor and split.ids is not None:
            labels.report.update(quality(labels.labels, split.ids))
        prefix = "" if len(self.labellings) == 1 else f"{name}/"
        return {f"{prefix}{key}": value for key, value in labels.report.items()}

    @span("reset")
    def _reset(self, labelling: str, domain: str, extracted: Mapping[Source, dict[str, Tensor]], flip: bool) -> None:
        device = self.model.device
        named_columns = self.domains.split(domain, "train").named_columns()
        columns = {column: torch.from_numpy(values).to(device) for column, values in named_columns.items()}
        labels = torch.from_numpy(self.labels[labelling].labels)
        for name, wiring in self._memories(labelling).items():
            memory = self.model.memories[name]
            features = None
            if memory.needs_features:
                features = _of(extracted, domain, wiring["network"], flip, wiring["feature"])
            with replacing_parameters(memory, self.optimizer()):  # type: ignore[arg-type]
                given = None if features is None else features.to(device, torch.float32), labels.to(device)
                named = named_inputs(memory.reset, columns)  # type: ignore[arg-type]
                call("memory", memory, "reset", memory.reset, *given, **named)  # type: ignore[arg-type]
            expect_columns(memory, self.labels[labelling].count)
            distributed.broadcast_(list(call("memory", memory, "state_dict", memory.state_dict).values()))  # type: ignore[arg-type]
            self.model.reset_memory_averages(name)

    # ---- state in checkpoints

    def _stateful_components(self) -> dict[str, Any]:
        """Stateful components of the labellings, by labelling, position and class."""
        parts = {
            f"{name}.{place}.{type(part).__name__}": part
            for name, plan in self.labellings.items()
            for place, part in plan.pipeline.parts.items()
        }
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def _images(self, labelling: str) -> int | None:
        """Number of images of a labelling; None for ground-truth labels."""
        domain = self.labellings[labelling].settings.domain if labelling in self.labellings else None
        return None if domain is None else len(self.domains.split(domain, "train"))

    def state_dict(self) -> dict[str, Any]:
        """Label sets as tensors, and the state of refiners."""
        return {
            "labels": {
                name: {key: torch.from_numpy(array) for key, array in labels.arrays().items()}
                for name, labels in self.labels.items()
            },
            "refiners": {
                name: call(kind_of(part), part, "state_dict", part.state_dict)
                for name, part in self._stateful_components().items()
            },
        }

    def load_state_dict(self, state: TrainingState) -> None:
        """The inverse of :meth:`state_dict`."""
        for name, refiner in self._stateful_components().items():
            if name not in state.refiners:  # happens only with a changed config
                raise CheckpointError(
                    f"The checkpoint has no state of {name}, which depends on earlier labellings. Restore the config, or "
                    "start a new run in another folder (--work-dir)."
                )
            call(kind_of(refiner), refiner, "load_state_dict", refiner.load_state_dict, state.refiners[name])
        self.labels = {}
        for name, tensors in state.labels.items():
            arrays = {key: np.asarray(tensor.cpu()) for key, tensor in tensors.items()}
            images = self._images(name)
            if images not in (None, len(arrays["labels"])):
                raise CheckpointError(
                    f"The checkpoint has labels of {len(arrays['labels'])} images ({name}), but there are {images} now. "
                    "Restore the data, or start a new run in another folder (--work-dir)."
                )
            self.labels[name] = LabelSet.of(arrays)


def _of(
    extracted: Mapping[Source, Mapping[str, Tensor]], domain: str, network: str | list[str], flip: bool, name: str
) -> Tensor:
    """The feature ``name`` of a domain's images, from one network or as the normalised mean of several."""
    return mean_normalized([extracted[domain, one, flip][name] for one in names_in(network)])
