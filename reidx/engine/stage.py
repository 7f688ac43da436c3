"""Execution of one stage: relabelling, training steps and evaluation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidx import distributed
from reidx.checks.batch_size import images_a_step, rate_note
from reidx.config.schema import IDENTITY, Evaluate, Stage
from reidx.contracts import LabelSet, Trial, contract_in_use
from reidx.contracts.protocols import Reranking
from reidx.data.datasets import Split
from reidx.data.domains import Domains
from reidx.data.files import is_copy
from reidx.data.loading import LabelledView, StreamLoader, batches
from reidx.engine.assembly import Assembly
from reidx.engine.calibration import calibrate
from reidx.engine.clusters import save_labels
from reidx.engine.idle import idle_by_labels, idle_by_values, idle_message, rests
from reidx.engine.loop import Report, StageLoop
from reidx.engine.relabel import Extractor, Relabeller
from reidx.engine.runner import ReidRunner
from reidx.evaluation import Details, Evaluation, evaluate, rerank
from reidx.evaluation.domain_probe import domain_probe
from reidx.machine.devices import device_of_this_process
from reidx.machine.threads import ThreadCountWatch
from reidx.models.compiler import compiled
from reidx.optim.moments import load_moments
from reidx.optim.optimizer import PrecisionOptimWrapper, autocast, build_optimizer, clear_state, clipping
from reidx.optim.schedule import build_schedule, with_ends
from reidx.profiling import span
from reidx.registry.build import build
from reidx.registry.promises import remarks
from reidx.registry.seam import call, checked_method, full_checks, kind_of
from reidx.reporting.forecast import work_of
from reidx.reporting.reporter import Reporter
from reidx.runs import checkpoint as checkpoints
from reidx.runs.epoch_log import EpochLog
from reidx.runs.failures import error_context, oom_advice
from reidx.runs.manifest import Resume
from reidx.runs.metrics import to_report
from reidx.runs.stamp import Stamp


class StageRun:
    """One stage, ready to train (:meth:`run`) or to evaluate (:meth:`evaluate`).

    ``resolve`` maps ``stage:NAME`` or a path to a checkpoint file.
    """

    def __init__(
        self,
        stage: Stage,
        number: int,
        seed: int,
        domains: Domains,
        work_dir: Path,
        resolve: Callable[[str], Path],
        reporter: Reporter,
    ) -> None:
        self.stage, self.domains, self.work_dir, self.reporter = stage, domains, work_dir, reporter
        self.key = (seed, number)
        self.resolve = resolve
        self.stamp: Stamp | None = None
        """Run and stage that own the files, set by a run that keeps them."""
        self.watch: ThreadCountWatch | None = None
        """Choice of the number of threads for the next epoch; None if the number is fixed."""
        assembly = Assembly(stage, domains, seed, resolve)
        self.model = assembly.model().to(device_of_this_process())
        distributed.broadcast_(list(self.model.state_dict().values()))
        self.model.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        transforms = {
            name: checked_method("transform", build("transform", "ReidTest", mean=network.mean, std=network.std), "batch")
            for name, network in self.model.networks.items()
        }
        self.extractor = Extractor(self.model, domains, transforms, stage.precision, stage.feature_dtype, reporter)
        self.runner: ReidRunner | None = None
        self.details: Details | None = None
        self.evaluation_card: dict[str, Any] = {}
        self._reported: set[str] = set()
        self._idle: dict[str, str] = {}
        self.images_a_step: dict[str, int] = {}
        views = {view: name for name, stream in stage.streams.items() for view in stream.views}
        self.loader = StreamLoader(stage.iters, views)
        labellings, matchings = assembly.labellings(self.model.device), assembly.matchings(self.model.device)
        self.relabeller = Relabeller(labellings, matchings, self.model, domains, self.extractor, self._optimizer, reporter)

    def _optimizer(self) -> torch.optim.Optimizer:
        assert self.runner is not None
        return self.runner.optim_wrapper.optimizer

    # ---- training

    def run(
        self, resume: Resume, journal: EpochLog | None = None, loop: Callable[..., StageLoop] = StageLoop
    ) -> list[Report]:
        """Train the stage and return the report of each epoch; ``resume`` continues from its newest complete checkpoint.

        ``journal`` logs the epochs (by default in ``work_dir``); ``loop`` is the class of the training loop.
        """
        stage = self.stage
        optimizer = build_optimizer(self.model, stage.optimizer, stage.optimization)
        self.images_a_step = images_a_step(stage, self.domains)
        if note := rate_note(stage, optimizer.defaults["lr"], self.images_a_step):
            self.reporter.message(note)
        wrapper = PrecisionOptimWrapper(
            optimizer=optimizer,
            precision=stage.precision,
            shared=self.model.networks,
            clip_grad=clipping(stage.clip_grad, stage.clip_by),
        )
        newest = None
        if resume:
            newest = distributed.on_rank_zero(lambda: checkpoints.to_resume_from(self.work_dir, self.reporter.message))
        if newest is None and stage.optimization.state_from is not None:
            load_moments(optimizer, self.model, checkpoints.load(self.resolve(stage.optimization.state_from)))
        self.runner = ReidRunner(
            model=self.model,
            work_dir=self.work_dir,
            name=f"{self.work_dir.parent.name}-{self.work_dir.name}-{id(self)}",
            epochs=stage.epochs,
            train_dataloader=self.loader,
            optim_wrapper=wrapper,
            param_scheduler=[build_schedule(spec, wrapper) for spec in with_ends(stage.schedule, stage.epochs, stage.iters)],
            randomness={"seed": self.key[0]},
            resume=newest is not None,
            load_from=None if newest is None else str(newest),
            anyway=resume == "anyway",
            stamp=self.stamp,
            message=self.reporter.message,
        )
        self.runner._train_loop = stage_loop = loop(
            self.runner,
            self.loader,
            epochs=stage.epochs,
            key=self.key,
            prepare=self._prepare,
            conclude=self._conclude,
            choose_threads=self.watch,
            evaluate=self._evaluate_if_due,
            state=self.relabeller.state_dict,
            restore=self.relabeller.load_state_dict,
            reporter=self.reporter,
            journal=journal or EpochLog(self.work_dir / "log.jsonl"),
        )
        networks = [self.model.networks[n] for n in self.model.networks_to_forward()]
        with error_context(f"stage {stage.name}"), oom_advice(self._smaller_steps), compiled(networks, stage.compile):  # type: ignore[arg-type]
            self.runner.train()
        return stage_loop.history

    def _smaller_steps(self) -> str:
        """Advice for running out of memory in a step."""
        plans = {name: loader.batch_sampler or [[]] for name, loader in self.loader.loaders.items()}
        sizes = [f"{len(next(iter(plan)))} images of {name}" for name, plan in plans.items()]
        batch = f"A step takes {' and '.join(sizes)}: take fewer (streams.NAME.sampler)" if sizes else "Take a smaller model"
        return f"{batch}, lower data.image_size, or set precision: bf16."

    @error_context("relabelling")
    @full_checks()
    def _prepare(self, epoch: int) -> Report:
        identity = {name: stream.domain for name, stream in self.stage.streams.items() if stream.labels == IDENTITY}
        self._report_notes()
        if epoch == 0 and self.stage.calibrate:
            self._calibrate(self.stage.calibrate)
        if epoch == 0:
            self._begin_alignments()
        if epoch and self.stage.optimization.restart_every and epoch % self.stage.optimization.restart_every == 0:
            clear_state(self._optimizer())
        self.model.objective.epoch = epoch
        report = {**self.relabeller.run(epoch, identity), **self.model.objective.changing_weights()}
        save_labels(self.work_dir, self.relabeller, epoch)
        self.loader.use({name: self._stream(name) for name in self.stage.streams})
        terms, labels = self.model.objective.terms, self.relabeller.labels
        self._idle = idle_by_labels(self.stage, terms, labels, epoch)
        self._report_idle_terms(self._idle, epoch)
        return report

    def _conclude(self, epoch: int, trained: Report) -> Report:
        """Report terms that were 0 throughout the epoch; returns the number of idle terms, if any."""
        terms = [term for term in self.model.objective.terms if not rests(self.stage, term, self.relabeller.labels)]
        zero = idle_by_values(terms, trained, self.stage.iters, epoch)
        self._report_idle_terms({name: why for name, why in zero.items() if name not in self._idle}, epoch)
        idle = {**zero, **self._idle}
        return {"idle_terms": float(len(idle))} if idle else {}

    def _report_idle_terms(self, idle: dict[str, str], epoch: int) -> None:
        """Report idle terms, in every epoch: a message from the first is out of sight by the tenth."""
        for name, why in idle.items():
            self.reporter.message(idle_message(name, why, epoch))

    def _calibrate(self, batches: int) -> None:
        domains = {name: stream.domain for name, stream in self.stage.streams.items()}
        transform = self.extractor.transforms["student"]
        with autocast(self.model.device, self.stage.precision):
            calibrate(self.model, self.domains, domains, transform, batches, self.reporter)

    def _begin_alignments(self) -> None:
        """Call ``begin`` of each alignment that has one, with the features of all training images of its two domains."""
        for bound in self.model.objective.terms:
            alignment: Any = getattr(bound, "alignment", None)
            if not hasattr(alignment, "begin") or not getattr(alignment, "needs_features", True):
                continue
            names = set(contract_in_use(alignment).requires)
            of_both = []
            for stream in (bound.source, bound.target):  # type: ignore[union-attr]
                domain = self.stage.sources[stream].domain
                what = f"features of {domain} for {bound.name}"
                features = self.extractor.features(domain, "train", "student", names, False, what)
                of_both.append({name: rows.to(self.model.device, torch.float32) for name, rows in features.items()})
            call("alignment", alignment, "begin", alignment.begin, *of_both)
            distributed.broadcast_(list(alignment.state_dict().values()))

    def _report_notes(self) -> None:
        """Report the ``notes`` of the stage's parts, each once."""
        labellers = [part for plan in self.relabeller.labellings.values() for part in plan.pipeline.parts.values()]
        labellers += [matching.matcher for matching in self.relabeller.matchings]
        speaking = [part for part in (*self.model.modules(), *labellers) if hasattr(part, "notes")]
        notes = [call(kind_of(part), part, "notes", lambda part: list(part.notes()), part) for part in speaking]
        for note in (*itertools.chain(*notes), *remarks):
            self._report_once(note)
        remarks.clear()

    def _report_once(self, note: str) -> None:
        """Report ``note`` once per stage."""
        if note not in self._reported:
            self._reported.add(note)
            self.reporter.message(note)

    def _stream(self, name: str) -> Any:
        stream = self.stage.streams[name]
        split = self.domains.split(stream.domain, "train")
        labels: LabelSet | None = self.relabeller.labels[stream.labels] if stream.labels else None
        store = self.domains.images(stream.domain, "train")
        if self.domains.on_device:
            with self.reporter.counted(f"train of {stream.domain}: decoding") as progress:
                store.move_to(self.model.device, progress)
        others = {labelling: self.relabeller.labels[labelling] for labelling in self.stage.named_labellings(name)}
        view = LabelledView(store, split.cameras, labels, others, split.columns)
        sampler = build(
            "sampler",
            stream.sampler,
            where=f"streams.{name}.sampler",
            labels=None if labels is None else labels.labels,
            cameras=split.cameras,
            images=len(view),
            batches=self.stage.iters,
            rank=distributed.rank(),
            world_size=distributed.count(),
        )
        return batches(view, sampler, self.domains.workers, self.stage.iters)

    # ---- evaluation

    def _evaluate_if_due(self, epoch: int) -> Report:
        return self.evaluate()[0] if work_of(self.stage, epoch)["evaluate"] else {}

    @error_context("evaluation")
    @full_checks()
    def evaluate(self) -> tuple[Report, dict[str, Any]]:
        """Evaluate the current network; returns the retrieval metrics and the card, both empty without a domain."""
        settings: Evaluate = self.stage.evaluate
        self._report_notes()
        if settings.domain is None:
            return {}, {}
        query, gallery = (self.domains.split(settings.domain, s) for s in ("query", "gallery"))

        def extracted(split: str) -> Tensor:
            what = f"{split} of {settings.domain}"
            features = self.extractor.features(
                settings.domain or "", split, settings.network, {settings.feature}, settings.flip, what
            )
            return features[settings.feature]

        features = extracted("query"), extracted("gallery")
        protocol = build("protocol", settings.protocol, where="evaluate.protocol")
        own = self.domains.own_images(settings.domain)
        people, cameras, columns = (query.ids, gallery.ids), (query.cameras, gallery.cameras), (query.columns, gallery.columns)

        def ranked(reranking: Callable[[np.ndarray, np.ndarray], Reranking] | None = None) -> Evaluation:
            return evaluate(
                *features, *people, *cameras, protocol, settings.metric, own=own, columns=columns, reranking=reranking,
                details=reranking is None,
            )  # fmt: skip

        with span("rank"):
            result = ranked()
        self.details = result.details
        copies = self._copies(query, gallery, result)
        metrics = to_report(result)
        reranking = None
        if settings.rerank is not None:
            reranker = build("reranker", settings.rerank, where="evaluate.rerank")
            how = partial(rerank, reranker, *features, settings.metric, cameras=cameras, columns=columns, protocol=protocol)
            with span("rerank"):
                better = ranked(lambda *places: how(trial=Trial(*places)))
            metrics |= to_report(better, reranked=True)
            reranking = better.card["reranking"]
        if settings.domain_probe is not None:
            metrics["domain_probe"] = self._probe(settings.network, settings.domain_probe)
        self.evaluation_card = {
            **result.card,
            "domain": settings.domain,
            "reranking": reranking,
            "queries_that_found_a_copy": copies,
            "flip": settings.flip,
            "feature": settings.feature,
            "network": settings.network,
        }
        return metrics, self.evaluation_card

    def _copies(self, query: Split, gallery: Split, result: Evaluation) -> int:
        """Count, and report, the queries that find a copy of their file first (in some trial), which inflates their scores."""
        assert query.ids is not None and gallery.ids is not None
        nearest = {
            (place, found)
            for trial in result.trials or (result,)
            if trial.details is not None
            for place, found in enumerate(trial.details.top[:, 0].tolist())
            if found >= 0 and gallery.ids[found] == query.ids[place]
        }
        copies = len({place for place, found in sorted(nearest) if is_copy(query.paths[place], gallery.paths[found])})
        if copies:
            self._report_once(
                f"{copies:,} of {len(query):,} queries have a copy of their file as the nearest match in the gallery, "
                "which inflates their scores; remove such copies"
            )
        return copies

    def _probe(self, network: str, feature: str) -> float:
        """Accuracy of a linear classifier that separates the stage's two domains by a feature of their training images.

        Identities are read from the data sets, for this figure alone, so that its meaning does not change during training.
        """
        of_both = [
            self.extractor.features(domain, "train", network, {feature}, False, f"{feature} of {domain}")[feature].float()
            for domain in self.stage.domains
        ]
        source, target = (self.domains.split(domain, "train").ids for domain in self.stage.domains)
        with span("rank"):
            return domain_probe(
                *(features.flatten(1) for features in of_both), seed=self.key[0], source_people=source, target_people=target
            )
