"""Relabelling: extract the features of a domain, label its images, match labellings, reset the memories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx import distributed
from reidx.config.schema import IDENTITY, connected, names_in
from reidx.contracts import Features, LabelSet, RefinerContext, mean_normalized, named_inputs
from reidx.data.domains import Domains
from reidx.data.loading import LabelledView, batches
from reidx.engine.extract import extract
from reidx.engine.step import StageModel
from reidx.errors import CheckpointError
from reidx.labels.matching import LabelMatching, unmatched
from reidx.labels.pipeline import LabellingPlan, quality
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
        matchings: Sequence[LabelMatching],
        model: StageModel,
        domains: Domains,
        extractor: Extractor,
        optimizer: Callable[[], torch.optim.Optimizer],
        reporter: Reporter,
    ) -> None:
        self.labellings, self.matchings, self.model = labellings, matchings, model
        self.domains, self.extractor, self.optimizer, self.reporter = domains, extractor, optimizer, reporter
        self.labels: dict[str, LabelSet] = {}

    def identity(self, domain: str) -> LabelSet:
        """Ground-truth labels of a domain's training images."""
        return LabelSet(self.domains.split(domain, "train").classes())

    def run(self, epoch: int, identity_domains: Mapping[str, str]) -> dict[str, float]:
        """Run the labellings due at the start of ``epoch``, reset their memories, and return the figures for the report.

        A labelling that is matched with one of them takes part in the matching with its present labels, and its memories are
        reset if these change. ``identity_domains`` maps each stream with ground-truth labels to its domain. These labels and
        their memories are set once.
        """
        report: dict[str, float] = {}
        due = {name for name, plan in self.labellings.items() if plan.due(epoch, name in self.labels)}
        involved = connected((matching.labellings for matching in self.matchings), due)
        matchings = [matching for matching in self.matchings if involved.intersection(matching.labellings)]
        matched = {name for matching in matchings for name in matching.labellings}
        plans = {name: plan for name, plan in self.labellings.items() if name in involved}
        extracted: dict[Source, dict[str, Tensor]] = {}
        for source, names in self._features_to_extract(plans).items():
            domain, network, flip = source
            what = f"epoch {epoch + 1}: features of {domain}"
            extracted[source] = self.extractor.features(domain, "train", network, names, flip, what)
        contexts: dict[str, RefinerContext] = {}
        for name, plan in plans.items():
            features = self._features(name, plan, extracted)
            if name in matched:
                contexts[name] = self._label(name, plan, features, epoch, name in due)
            else:
                self._label(name, plan, features, epoch)
                report.update(self._finish(name, plan, extracted))
        due |= self._match(matchings, contexts, epoch)
        contexts.clear()  # graphs are large
        for name in (name for name in plans if name in matched):
            report.update(self._finish(name, plans[name], extracted, name in due))
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
        """Names of the features to extract, by source, for clustering, for matching and for resetting memories."""
        wanted: dict[Source, set[str]] = {}
        for labelling, plan in due.items():
            memories = self._memories(labelling, features_only=True).values()
            needed = [(plan.settings.network, view) for view in self._views(labelling, plan)]
            needed += [(wiring["network"], wiring["feature"]) for wiring in memories]
            for networks, name in needed:
                for network in names_in(networks):
                    wanted.setdefault((plan.domain, network, plan.settings.flip), set()).add(name)
        return wanted

    def _views(self, name: str, plan: LabellingPlan) -> frozenset[str]:
        """Names of the features to extract for a labelling; entries of its memory need no extraction."""
        views = plan.pipeline.views.union(*(matching.views for matching in self.matchings if name in matching.labellings))
        return views - ({plan.settings.feature} if self._memory_entries(plan) is not None else set())

    def _features(
        self, name: str, plan: LabellingPlan, extracted: Mapping[Source, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Features of a labelling by name, from its networks or its memory."""
        key, held = (plan.domain, plan.settings.network, plan.settings.flip), self._memory_entries(plan)
        features = {view: _of(extracted, *key, view) for view in self._views(name, plan)}
        return features if held is None else {**features, plan.settings.feature: held}

    def _memory_entries(self, plan: LabellingPlan) -> Tensor | None:
        """Entries (N,…) of the memory that a labelling clusters, on the CPU; None without a memory or if it is empty."""
        if plan.settings.memory is None:
            return None
        memory = self.model.memories[plan.settings.memory]
        images: Tensor = call("memory", memory, "its images", getattr, memory, "images")
        return images.cpu() if len(images) else None

    @error_context("clustering")
    @oom_advice("Lower k1 of the distance, or set feature_dtype: fp16.")
    def _label(
        self, name: str, plan: LabellingPlan, features: dict[str, Tensor], epoch: int, renew: bool = True
    ) -> RefinerContext:
        """Compute the distances of a labelling and, with ``renew``, its labels; returns the context of its components."""
        split = self.domains.split(plan.domain, "train")
        previous = self.labels[name].labels if name in self.labels else None
        what = f"epoch {epoch + 1}: {'clustering' if renew else 'distances of'} {plan.domain}"
        with self.reporter.work(what, len(split)) as work:
            context = plan.pipeline.context(
                features, epoch=epoch, cameras=split.cameras, previous=previous, columns=split.columns
            )
            self.labels[name] = plan.pipeline.label(context) if renew else replace(self.labels[name], report={})
            work.advance(len(split))
        return context

    @error_context("matching")
    def _match(self, matchings: Sequence[LabelMatching], contexts: Mapping[str, RefinerContext], epoch: int) -> set[str]:
        """Match labellings, and return the names of those whose labels have changed."""
        before = {name: self.labels[name].labels for name in contexts}
        self.labels = unmatched(self.labels, matchings)
        for matching in matchings:
            with self.reporter.work(f"epoch {epoch + 1}: matching {' and '.join(matching.labellings)}", 1, "matchings") as work:
                self.labels.update(matching(self.labels, contexts))
                work.advance()
        return {name for name, labels in before.items() if not np.array_equal(labels, self.labels[name].labels)}

    def _finish(
        self, name: str, plan: LabellingPlan, extracted: Mapping[Source, dict[str, Tensor]], changed: bool = True
    ) -> dict[str, float]:
        """Reset the memories of a labelling if it has ``changed``, and return its figures for the report."""
        labels, truth = self.labels[name], self.domains.split(plan.domain, "train").ids
        if changed:
            if plan.settings.monitor and truth is not None:
                labels.report.update(quality(labels.labels, truth))
            self._reset(name, plan.domain, extracted, plan.settings.flip)
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
        """Stateful components of the labellings, by labelling, position and class, and stateful matchers."""
        parts = {
            f"{name}.{place}.{type(part).__name__}": part
            for name, plan in self.labellings.items()
            for place, part in plan.pipeline.parts.items()
        }
        for number, matching in enumerate(self.matchings):
            parts[f"matching[{number}].{type(matching.matcher).__name__}"] = matching.matcher
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}

    def _images(self, labelling: str) -> int | None:
        """Number of images of a labelling; None for ground-truth labels."""
        domain = self.labellings[labelling].settings.domain if labelling in self.labellings else None
        return None if domain is None else len(self.domains.split(domain, "train"))

    def state_dict(self) -> dict[str, Any]:
        """Label sets as tensors, and the state of clusterers, refiners and matchers."""
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
