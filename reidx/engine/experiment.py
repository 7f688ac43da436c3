"""A whole experiment: its stages in order, each finished one remembered, and the result with its card."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reidx import processes
from reidx.config import Config
from reidx.data.domains import Domains
from reidx.engine import checkpoint as checkpoints
from reidx.engine.allocator import keep_freed_memory
from reidx.engine.loop import Report
from reidx.engine.preflight import check_evaluation, check_experiment
from reidx.engine.progress import Mode, Reporter
from reidx.engine.seeding import seed_everything
from reidx.engine.stage import StageRun
from reidx.errors import CheckpointError, ConfigError
from reidx.evaluation.ranked_list import save_ranked_list
from reidx.plugins import plugins
from reidx.schema import Stage

METRICS = ("mAP", "rank-1", "rank-5", "rank-10", "mINP")
LABELS = ("clusters", "outliers", "ari")

RECORD = "experiment.json"
"""The file that makes a folder a run's."""


@dataclass
class StageResult:
    """What a stage came to: ``before`` (metrics before its first epoch, if asked for), the ``history`` of its epochs."""

    name: str
    before: Report = field(default_factory=dict)
    history: list[Report] = field(default_factory=list)

    @property
    def last(self) -> Report:
        """The report of the last epoch; empty for a stage without one."""
        return self.history[-1] if self.history else {}


@dataclass
class Result:
    """The result of an experiment: its stages, its card, and the folder that holds everything else."""

    work_dir: Path
    stages: list[StageResult]
    card: dict[str, Any]

    @property
    def ranked_list(self) -> Path | None:
        """The picture of ranked lists of the last stage that was evaluated, if there is one."""
        folders = [self.work_dir / f"{i + 1}-{stage.name}" for i, stage in enumerate(self.stages)]
        pictures = [folder / "ranked.png" for folder in folders if (folder / "ranked.png").is_file()]
        return pictures[-1] if pictures else None

    @property
    def metrics(self) -> Report:
        """mAP, rank-k and mINP (fractions) after the last epoch of the last stage."""
        last = self.stages[-1].last or self.stages[-1].before
        return {name: last[name] for name in METRICS if name in last}

    def rows(self) -> list[tuple[str, Report]]:
        """What the table shows: every evaluated state, by name."""
        rows: list[tuple[str, Report]] = []
        for stage in self.stages:
            if stage.before:
                rows.append((f"direct transfer (before {stage.name})" if stage.history else stage.name, stage.before))
            if "mAP" in stage.last:
                rows.append((f"{stage.name}, epoch {stage.last['epoch']:.0f} (last)", stage.last))
        return rows

    def table(self) -> str:
        """The states of the experiment, a line each: mAP, rank-1/5/10, mINP in percent; clusters, outliers, ARI."""
        rows = self.rows()
        width = max((len(name) for name, _ in rows), default=0)
        head = ["mAP", "rank-1", "rank-5", "rank-10", "mINP", "clusters", "outliers", "ARI"]
        lines = [" " * width + "".join(f"{name:>9}" for name in head)]
        for name, report in rows:
            cells = [f"{100 * report[m]:9.2f}" if m in report else f"{'–':>9}" for m in METRICS]
            cells += [f"{report[m]:9.0f}" if m in report else f"{'–':>9}" for m in LABELS[:2]]
            cells.append(f"{report['ari']:9.3f}" if "ari" in report else f"{'–':>9}")
            lines.append(f"{name:<{width}}" + "".join(cells))
        return "\n".join(lines)


def run(
    config: Config,
    work_dir: str | Path | None = None,
    resume: bool = False,
    progress: Mode | None = None,
) -> Result:
    """Run an experiment to its end, stage after stage.

    Everything is written under ``work_dir`` (default ``runs/NAME-HASH``): the resolved config, a folder a stage with its
    checkpoints and log, the result with its card. A folder that holds a run already is only gone on with when ``resume``
    is set, and then only with the same config. ``resume`` skips finished stages and goes on from the last whole
    checkpoint of the unfinished one, to the same numbers as a run that was never stopped (bit for bit on a CPU).

    Raises :class:`ConfigError` for a folder of another run, and whatever the stages raise. A run that fails before
    anything is committed gives the folder free again.
    """
    keep_freed_memory()
    folder = Path(work_dir) if work_dir is not None else Path("runs") / f"{config.experiment.name}-{config.hash}"
    claimed = processes.from_first(lambda: _claim(folder, config, resume))
    try:
        return _run(config, folder, resume, Reporter(progress if processes.rank() == 0 else "quiet"))
    except BaseException:
        if processes.rank() == 0 and claimed and not any(folder.glob("*/epoch_*.pth")) and not any(folder.glob("*/*.json")):
            (folder / RECORD).unlink(missing_ok=True)
        raise


def _run(config: Config, folder: Path, resume: bool, reporter: Reporter) -> Result:
    experiment = config.experiment

    def checked() -> Domains:
        domains = Domains(config.data["data"], reporter.counted)
        check_experiment(config, domains)
        return domains

    domains = processes.first_alone(checked)
    stages: list[StageResult] = []
    started = time.time()
    cards: dict[str, Any] = {}
    for number, stage in enumerate(experiment.stages):
        path = folder / f"{number + 1}-{stage.name}"
        done = path / "done.json"
        if resume and done.is_file():
            record = json.loads(done.read_text(encoding="utf-8"))
            stages.append(StageResult(stage.name, record["before"], record["history"]))
            cards[stage.name] = record["card"]
            reporter.say(f"stage {stage.name}: finished earlier")
            continue
        reporter.say(f"stage {stage.name}")
        seed_everything(experiment.seed, number)
        stage_run = StageRun(
            stage, number, experiment.seed, domains, path, lambda ref: _resolve(ref, folder, experiment.stages), reporter
        )
        result = StageResult(stage.name)
        before = path / "before.json"
        if stage.evaluate.before or stage.epochs == 0:
            if resume and before.is_file():
                result.before = json.loads(before.read_text(encoding="utf-8"))
            else:
                result.before, _ = stage_run.evaluate()
                checkpoints.write_text(before, json.dumps(result.before, indent=1))
            if result.before:
                reporter.say("before: " + _metrics_line(result.before))
        if stage.epochs > 0:
            result.history = stage_run.run(resume)
        if stage_run.details is None:
            stage_run.evaluate()  # killed between the last commit and here: the picture and the card are still due
        stages.append(result)
        cards[stage.name] = _stage_card(stage, stage_run)
        if stage_run.details is not None and stage.evaluate.domain is not None and processes.rank() == 0:
            tested = domains[stage.evaluate.domain]
            save_ranked_list(path / "ranked.png", tested.query, tested.gallery, stage_run.details)
        record = {"before": result.before, "history": result.history, "card": cards[stage.name]}
        checkpoints.write_text(path / "log.jsonl", "".join(json.dumps(e) + "\n" for e in result.history))
        checkpoints.write_text(done, json.dumps(record, indent=1))
    card = _card(config, domains, cards, time.time() - started)
    finished = Result(folder, stages, card)
    checkpoints.write_text(
        folder / "result.json", json.dumps({"metrics": finished.metrics, "card": card}, indent=1)
    )
    return finished


def test(config: Config, weights: str | Path | None = None, progress: Mode | None = None) -> Result:
    """Evaluate the network that an experiment's last stage evaluates: with ``weights`` (a checkpoint of that stage, which
    must fit as a whole), or as the stage starts.

    Nothing is trained, nothing written, and ``config`` stays as it is. Raises :class:`ConfigError` if the stage has no
    domain to evaluate on.
    """
    stage, number = config.experiment.stages[-1], len(config.experiment.stages) - 1
    if stage.evaluate.domain is None:
        raise ConfigError(f"Stage {stage.name} names no domain to test on: set stages.{stage.name}.evaluate.domain.")
    if weights is not None:
        if not Path(weights).is_file():
            raise CheckpointError(f"--weights: there is no file {weights}.")
        teachers = {name: replace(teacher, weights=None) for name, teacher in stage.teachers.items()}
        stage = replace(stage, init=None, teachers=teachers)
    elif stage.init is not None and stage.init.startswith("stage:"):
        raise ConfigError(f"Stage {stage.name} starts from {stage.init}: say whose weights to test (--weights FILE).")
    keep_freed_memory()
    reporter = Reporter(progress)
    domains = Domains(config.data["data"], reporter.counted)
    check_evaluation(config, domains, number)
    seed_everything(config.experiment.seed, number)
    stage_run = StageRun(stage, number, config.experiment.seed, domains, Path("."), Path, reporter)
    if weights is not None:
        name = stage.evaluate.network
        checkpoints.load_weights(stage_run.model.networks[name], weights, name, whole=True)
    metrics, _ = stage_run.evaluate()
    cards = {stage.name: {**_stage_card(stage, stage_run), "tested": str(weights) if weights else "as built"}}
    return Result(Path("."), [StageResult(stage.name, metrics)], _card(config, domains, cards, 0.0))


def _claim(folder: Path, config: Config, resume: bool) -> bool:
    """Make ``folder`` this run's, or raise if it is another's; whether it was nobody's before."""
    record = folder / RECORD
    if record.is_file():
        theirs = json.loads(record.read_text(encoding="utf-8"))["hash"]
        if not resume:
            raise ConfigError(
                f"{folder} holds a run already. Go on with it (--resume), or name another folder (--work-dir)."
            )
        if theirs != config.hash:
            raise ConfigError(
                f"{folder} holds a run of another config (hash {theirs}, this one is {config.hash}); compare its config.yaml. "
                "Resume with that config, or name another folder (--work-dir)."
            )
        return False
    namespaces = {name.partition(".")[0] for name in _components(config.data) if "." in name}
    used = {p.namespace: p for p in plugins() if p.namespace in namespaces}
    origin = {
        namespace: {
            "distribution": plugin.origin,
            "paper": plugin.info.paper if plugin.info else "",
            "licence": plugin.info.licence if plugin.info else "",
        }
        for namespace, plugin in used.items()
    }
    checkpoints.write_text(folder / "config.yaml", config.render())
    checkpoints.write_text(
        record, json.dumps({"name": config.experiment.name, "hash": config.hash, "plugins": origin}, indent=1)
    )
    return True


def _components(data: Any) -> set[str]:
    """The names of all components in a resolved config."""
    if isinstance(data, list):
        return set().union(*map(_components, data))
    if not isinstance(data, dict):
        return set()
    own = {data[key] for key in ("type", "loss") if isinstance(data.get(key), str)}
    return own.union(*map(_components, data.values()))


def _resolve(reference: str, folder: Path, stages: list[Stage]) -> Path:
    """The checkpoint that ``stage:NAME`` (its last) or a path stands for."""
    if not reference.startswith("stage:"):
        return Path(reference)
    name = reference.removeprefix("stage:")
    number = next(i for i, stage in enumerate(stages) if stage.name == name)
    last = folder / f"{number + 1}-{name}" / f"epoch_{stages[number].epochs}.pth"
    if checkpoints.newest(last.parent) != last:  # an earlier one would be another teacher, unsaid
        raise CheckpointError(f"{reference}: its last checkpoint {last} is missing or damaged. Run that stage again.")
    return last


def _metrics_line(metrics: Report) -> str:
    return ", ".join(f"{name} {100 * metrics[name]:.2f}" for name in METRICS if name in metrics)


def _stage_card(stage: Stage, stage_run: StageRun) -> dict[str, Any]:
    """How a stage's numbers came about."""
    streams = stage.streams.values()
    return {
        "epochs": stage.epochs,
        "iters": stage.iters,
        "init": stage.init,
        "weights": stage.model.backbone.get("weights") or stage.model.backbone.get("pretrained", False),
        "precision": stage.precision,
        "bn_group": stage.model.bn_group,
        "cameras_in_sampling": any(s.sampler.get("use_cameras", False) for s in streams),
        "label_monitor": any(level.monitor for level in stage.labels.values()),
        "selection": "last epoch",
        "evaluation": stage_run.evaluation_card,
    }


def _card(config: Config, domains: Domains, stages: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a number needs beside it to mean something."""
    packages = ("reidx", "torch", "torchvision", "timm", "mmengine", "numpy", "faiss-gpu", "faiss-cpu")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "experiment": config.experiment.name,
        "config_hash": config.hash,
        "seed": config.experiment.seed,
        "data": {name: domains[name].card() for name in config.experiment.data.domains},
        "image_size": list(config.experiment.data.image_size),
        "interpolation": config.experiment.data.interpolation,
        "stages": stages,
        "seconds": round(seconds, 1),
        "processes": processes.count(),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": versions,
    }
