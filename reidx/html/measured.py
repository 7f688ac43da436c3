"""The last stage of a run, measured again on its test set: features, distances, ranking of each query, maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reidx.config.schema import Evaluate
from reidx.data.datasets import Split
from reidx.data.domains import Domains
from reidx.engine.cross_test import config_to_test
from reidx.engine.ready import ready_to_test
from reidx.engine.stage import StageRun
from reidx.evaluation import Details, Evaluation, evaluate
from reidx.labels.features import unit
from reidx.models.domain_norm import network_of_domain
from reidx.registry.build import build
from reidx.reporting.reporter import Reporter

TOP = 10
"""Gallery images of each query."""


@dataclass(frozen=True)
class Measured:
    """The test of a run: its splits, their features as they are compared (N,D), the evaluation with its details."""

    stage_run: StageRun
    query: Split
    gallery: Split
    features: tuple[Tensor, Tensor]
    evaluation: Evaluation

    @property
    def details(self) -> Details:
        """The ranking of each query; of the first trial if the protocol draws several."""
        assert self.evaluation.details is not None
        return self.evaluation.details

    @property
    def settings(self) -> Evaluate:
        """The settings of the evaluation."""
        return self.stage_run.stage.evaluate

    @property
    def domain(self) -> str:
        """The name of the tested domain."""
        assert self.settings.domain is not None
        return self.settings.domain

    def camera(self, number: int) -> str:
        """The name of a camera in the data set; a dash for an image without one."""
        return "–" if number < 0 else str(self.stage_run.domains[self.domain].camera_number(number))

    def score(self, query: int, found: int) -> float | None:
        """Cosine similarity, or Euclidean distance, of a query and a gallery image; None where groups are ranked."""
        if self.evaluation.card.get("groups"):
            return None
        one, other = self.features[0][query], self.features[1][found]
        return float(one @ other if self.settings.metric == "cosine" else (one - other).norm())

    @torch.no_grad()
    def activations(self, queries: Sequence[int]) -> Tensor:
        """Activation maps (B,h,w) of query images: the sum over channels of the squared map, divided by its maximum.

        Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, the mapping F_sum^2.
        """
        run, name = self.stage_run, self.settings.network
        run.model.eval()
        network = network_of_domain(run.model.networks[name], self.domain)
        device, places = run.model.device, torch.as_tensor(list(queries))
        images = run.extractor.transforms[name](run.domains.images(self.domain, "query").batch(list(queries)).to(device))
        columns = {key: torch.from_numpy(column)[places].to(device) for key, column in self.query.named_columns().items()}
        seen = {key: column for key, column in columns.items() if key in network.columns}  # type: ignore[operator]
        encoded = network.encode(images.contiguous(memory_format=torch.channels_last), seen)  # type: ignore[operator]
        return activation_of(encoded["map"])


def activation_of(maps: Tensor) -> Tensor:
    """Activation maps (B,h,w) in 0 to 1 of feature maps (B,C,h,w)."""
    energy = maps.float().square().sum(dim=1).cpu()
    return energy / energy.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def measure(folder: Path, reporter: Reporter) -> Measured:
    """Test a finished run on its own test set with its last checkpoint, without re-ranking.

    Raises :class:`~reidx.errors.ReidxError` or :class:`OSError` if its checkpoint, data or plugins are gone.
    """
    config, weights = config_to_test(folder)
    stage = config.experiment.stages[-1]
    teachers = {name: replace(teacher, weights=None) for name, teacher in stage.teachers.items()}
    domains = Domains(config.data["data"], reporter.counted, reporter.message)
    run = ready_to_test(config, domains, replace(stage, init=None, teachers=teachers), weights, reporter)
    settings = run.stage.evaluate
    domain = settings.domain or ""
    query, gallery = (run.domains.split(domain, split) for split in ("query", "gallery"))

    def extracted(split: str) -> Tensor:
        what = f"{folder.name}: {split} of {domain}"
        found = run.extractor.features(domain, split, settings.network, {settings.feature}, settings.flip, what)
        return found[settings.feature]

    features = extracted("query"), extracted("gallery")
    found = evaluate(
        *features,
        query.ids,
        gallery.ids,
        query.cameras,
        gallery.cameras,
        build("protocol", settings.protocol, where="evaluate.protocol"),
        settings.metric,
        own=run.domains.own_images(domain),
        columns=(query.columns, gallery.columns),
        details=True,
        top=TOP,
    )
    if settings.metric == "cosine":
        features = unit(features[0], f"query of {domain}"), unit(features[1], f"gallery of {domain}")
    return Measured(run, query, gallery, features, found)


def identity(split: Split, place: int) -> int:
    """The identity of an image of a test split."""
    assert split.ids is not None
    return int(np.asarray(split.ids)[place])
