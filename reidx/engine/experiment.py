"""Execution of an experiment: its stages in order, and the result with its card."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidx import distributed
from reidx.checks.data import check_experiment, without_missing_tests
from reidx.checks.dry_build import dry_build
from reidx.config.config import Config
from reidx.config.schema import RERANKER, Stage
from reidx.data.domains import Domains
from reidx.engine.card import card_of, seconds_of, stage_card
from reidx.engine.precision import choose_precision
from reidx.engine.ready import ready_to_test
from reidx.engine.seeding import seed_everything
from reidx.errors import CheckpointError, ConfigError
from reidx.evaluation.ranked_list import ranked_list
from reidx.machine.allocator import keep_freed_memory
from reidx.machine.threads import (
    ThreadCountWatch,
    Threads,
    choose_thread_count,
    depends_on_load,
    number_of_threads,
    threads_set_to,
)
from reidx.reporting.reporter import Mode, Reporter
from reidx.runs import checkpoint as checkpoints
from reidx.runs.epoch_log import EpochLog, Report, count_session, sessions_of
from reidx.runs.failure_note import failure_noted, remove_note
from reidx.runs.failures import failure_guard
from reidx.runs.manifest import Resume, RunManifest
from reidx.runs.metrics import metric_names, metrics_in, percent
from reidx.runs.result import Result, StageResult
from reidx.runs.stage_cache import Shared, trained_in
from reidx.runs.stage_key import stage_key
from reidx.runs.stamp import Stamp, read_sealed, refuse_foreign, write_sealed

if TYPE_CHECKING:  # modules that need mmengine's runner and timm are imported after config and data have been checked
    from reidx.reporting.curves import Curves


def run(
    config: Config,
    work_dir: str | Path | None = None,
    resume: Resume = False,
    progress: Mode | None = None,
    share: str | Path | None = None,
    threads: Threads = None,
    images: bool = False,
) -> Result:
    """Run all stages of an experiment.

    Everything is written under ``work_dir`` (default ``runs/NAME-HASH``): the resolved config, a folder per stage with its
    checkpoints and log, the result with its card.

    ``resume`` continues the run in ``work_dir``: finished stages are skipped, and the unfinished one continues from its last
    complete checkpoint, with the same numbers as an uninterrupted run (bit for bit on a CPU). It requires the same
    provenance (config, content of the data, code, number of processes); ``"anyway"`` accepts changes and records them on the
    card.

    ``share`` is a folder that runs have in common: a stage finished by another run (same keys, seed, data, code, earlier
    stages) is copied instead of trained, initial features are extracted once, and packed images (``reidx data pack``) are not
    decoded again. The numbers are identical bit for bit; the card lists the copied stages.

    ``threads`` is the number of CPU threads: a number, ``auto`` (the idle cores, the default of the commands), or None
    (torch's default). A resumed run keeps its number unless one is given; another number changes the rounding, which is
    reported and recorded on the card.

    ``images`` draws ranked lists with the pictures of the people into each tested stage's folder (``ranked.png``).

    Raises :class:`ConfigError` for a folder of another run, :class:`RunError` for failures of memory, disk or a worker
    process and for numbers that diverge, :class:`Terminated` (a ``SystemExit``) on SIGTERM, and the errors of the stages. A
    run that fails before its first commit releases the folder. ``docs/faults.md`` lists all faults.
    """
    keep_freed_memory()
    record = RunManifest(folder_of(config, work_dir), config, resume)
    reporter = Reporter(progress)
    with failure_noted(record.folder, lambda: bool(record.stamps)), failure_guard(record.folder), closing(record):
        distributed.on_rank_zero(lambda: record.open(reporter.message))
        facts: dict[str, Any] = {"name": config.experiment.name, "hash": config.hash}
        facts |= {"work_dir": str(record.folder), "resumed": record.is_resumed}
        alone = distributed.count() == 1
        number = distributed.on_rank_zero(lambda: choose_thread_count(threads, record.threads, reporter.message, alone))
        try:
            with threads_set_to(number), reporter.experiment(config.experiment.stages, **facts):
                tested, domains = distributed.rank_zero_first(lambda: check_data(config, reporter, share))
                from reidx.reporting.curves import Curves

                # a shared stage needs a fixed number of threads
                watch = ThreadCountWatch(reporter.message) if share is None and depends_on_load(threads, alone) else None
                with Curves(config, record.folder, reporter) as curves:
                    cache = None if share is None else Path(share)
                    return _run(tested, domains, record, reporter, curves, cache, watch, images)
        except BaseException:
            record.release()
            raise


def folder_of(config: Config, work_dir: str | Path | None) -> Path:
    """Folder of an experiment's run: ``work_dir``, by default ``runs/NAME-HASH``."""
    return Path(work_dir) if work_dir is not None else Path("runs") / f"{config.experiment.name}-{config.hash}"


def check_data(config: Config, reporter: Reporter, share: str | Path | None) -> tuple[Config, Domains]:
    """Check data and parts of all stages; returns the config without missing tests, and the data (``share``: with packs)."""
    domains = Domains(config.data["data"], reporter.counted, reporter.message, None if share is None else Path(share, "packs"))
    config = without_missing_tests(config, domains)
    check_experiment(config, domains)
    dry_build(config, domains)
    return config, domains


def _run(
    config: Config,
    domains: Domains,
    record: RunManifest,
    reporter: Reporter,
    curves: Curves,
    share: Path | None,
    watch: ThreadCountWatch | None,
    images: bool,
) -> Result:
    from reidx.engine.clusters import write_clusters
    from reidx.engine.stage import StageRun
    from reidx.runs.feature_cache import FirstFeatures

    experiment, folder, resume, begun_with = config.experiment, record.folder, record.resume, number_of_threads()
    paths = [folder / f"{number + 1}-{stage.name}" for number, stage in enumerate(experiment.stages)]
    finished = [
        _finished_record(path / "done.json", stage) if resume else None for path, stage in zip(paths, experiment.stages)
    ]
    _refuse_stale(experiment.stages, finished, paths)
    done = [stage.name for stage, earlier in zip(experiment.stages, finished) if earlier is not None]
    chosen = choose_precision(experiment.stages, record.precision, done)
    resumed = distributed.on_rank_zero(lambda: record.write(domains, reporter.message, partial(stage_key, config), chosen.auto))
    for note in chosen.notes:
        reporter.message(note)
    begun, stamps = distributed.on_rank_zero(lambda: (record.begun, record.stamps))
    if resume:
        distributed.on_rank_zero(lambda: _refuse_foreign(folder, paths, stamps))
    distributed.on_rank_zero(partial(remove_note, folder))
    shared = None if share is None else _stage_cache(share, config, record, reporter)
    for number, (path, stage) in enumerate(zip(paths, experiment.stages)):
        if shared is not None and finished[number] is None and distributed.on_rank_zero(partial(shared.fetch, number, path)):
            finished[number] = _finished_record(path / "done.json", stage)
            if not images:
                (path / "ranked.png").unlink(missing_ok=True)  # of a run that was asked for it
    stages: list[StageResult] = []
    cards: dict[str, Any] = {}
    if all(finished):
        sessions = sessions_of(record.path)
    else:
        sessions = distributed.on_rank_zero(lambda: count_session(record.path))
        distributed.on_rank_zero(lambda: curves.open(fresh=sessions == 1))
    for number, stage in enumerate(chosen.apply(experiment.stages)):
        path = record.stage_folder(paths[number].name)
        if (earlier := finished[number]) is not None:
            stages.append(StageResult(stage.name, earlier["before"], earlier["history"]))
            cards[stage.name] = earlier["card"]
            reporter.stage_starts(stage, done=earlier["history"])
            curves.add(stage, 0, earlier["before"])
            for entry in earlier["history"]:
                curves.of(stage)(entry)
            continue
        reporter.stage_starts(stage)
        distributed.on_rank_zero(partial(record.refuse_changed_files, config.data["stages"][number]))
        seed_everything(experiment.seed, number)
        stage_run = StageRun(
            stage, number, experiment.seed, domains, path, lambda ref: checkpoint_of(ref, folder, experiment.stages), reporter
        )
        stage_run.stamp = stamp = stamps[stage.name]
        if shared is not None:
            features = shared.folder.with_name("features")
            stage_run.extractor.first = FirstFeatures(features, config, stage, shared.provenance, reporter.message)
        result = StageResult(stage.name)
        before = path / "before.json"
        if stage.evaluate.before or stage.epochs == 0:
            if resume and before.is_file():
                result.before = read_sealed(before, stamp)["before"]
            else:
                with reporter.timed("evaluate") as timed:
                    result.before, _ = stage_run.evaluate()
                if result.before:
                    result.before["seconds_evaluate"] = timed.seconds
                write_sealed(before, {"before": result.before}, stamp)
            if result.before:
                reporter.evaluated(result.before, "before: " + _metrics_line(result.before))
                curves.add(stage, 0, result.before)
        if stage.epochs > 0:
            of = {} if stamp is None else {"run": stamp.run, "key": stamp.key}
            stage_run.watch = watch
            with threads_set_to(begun_with):
                result.history = stage_run.run(resume, EpochLog(path / "log.jsonl", curves.of(stage), reporter.message, of))
            write_clusters(path, stage_run.relabeller)
        if stage_run.details is None:
            stage_run.evaluate()  # after a kill between the last commit and here, the card is missing
        stages.append(result)
        cards[stage.name] = stage_card(stage, stage_run)
        counts = [entry["threads"] for entry in result.history if "threads" in entry]
        if set(counts) - {begun_with}:
            cards[stage.name]["threads_by_epoch"] = counts
        if idle := sum("idle_terms" in entry for entry in result.history):
            cards[stage.name]["epochs_with_idle_terms"] = idle
        if images and stage_run.details is not None and stage.evaluate.domain is not None and distributed.rank() == 0:
            tested = domains[stage.evaluate.domain]
            picture = ranked_list(tested.query, tested.gallery, stage_run.details)
            checkpoints.write_atomically(path / "ranked.png", partial(picture.save, format="PNG", compress_level=1))
        outcome = {
            "before": result.before,
            "history": result.history,
            "card": cards[stage.name],
            "checkpoint": checkpoints.checksum_of(path / f"epoch_{stage.epochs}.pth"),
        }
        write_sealed(path / "done.json", outcome, stamp)
        if shared is not None and distributed.rank() == 0:
            shared.store(number, path, stamp)
    card = card_of(config, domains, cards, seconds_of(stages), sessions)
    if resumed:
        card["resumed_anyway"] = resumed
    trainers = {stage.name: trained_in(path) for stage, path in zip(experiment.stages, paths)}
    taken = {name: trainer for name, trainer in trainers.items() if trainer is not None}
    if taken:
        card["taken_over"] = taken
    whole = Result(folder, stages, card)
    metrics = {"metrics": whole.metrics, **({"reranked": whole.reranked} if whole.reranked else {})}
    checkpoints.write_text(folder / "result.json", json.dumps({**metrics, "run": begun, "card": card}, indent=1))
    reporter.run_ends(whole.metrics, card["seconds"])
    return whole


def _stage_cache(folder: Path, config: Config, record: RunManifest, reporter: Reporter) -> Shared | None:
    """The run's cache of shared stages; None if the run was resumed under changed provenance."""
    known = distributed.on_rank_zero(lambda: record.provenance)
    if distributed.on_rank_zero(lambda: record.resumed):
        reporter.message(f"{record.folder} was resumed under different provenance: it shares nothing with other runs")
        return None
    return Shared(folder / "stages", config, known, reporter.message)


def _finished_record(done: Path, stage: Stage) -> dict[str, Any] | None:
    """Record of a finished stage; None if epochs are left, including epochs added to the config since."""
    earlier = read_sealed(done) if done.is_file() else None
    return earlier if earlier is not None and len(earlier["history"]) >= stage.epochs else None


def _refuse_foreign(folder: Path, paths: list[Path], stamps: Mapping[str, Stamp | None]) -> None:
    """Raise :class:`CheckpointError` for a file in the run's folder that belongs to another run."""
    for path, stamp in zip(paths, stamps.values()):
        if stamp is not None:
            refuse_foreign(path, stamp)
    result = folder / "result.json"
    own = {stamp.run for stamp in stamps.values() if stamp is not None}
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a damaged file is rewritten later
        theirs = json.loads(result.read_text(encoding="utf-8")).get("run")
        if own and theirs is not None and theirs not in own:
            raise CheckpointError(f"{result} belongs to another run (config {theirs}), not to {min(own)}. Move it away.")


def _refuse_stale(stages: list[Stage], finished: list[dict[str, Any] | None], paths: list[Path]) -> None:
    """Raise :class:`ConfigError` for a finished stage whose initial weights are outdated.

    They come from another finished stage that now has more epochs to train.
    """
    unfinished = {
        f"stage:{stage.name}": stage.name
        for stage, earlier, path in zip(stages, finished, paths)
        if earlier is None and (path / "done.json").is_file()
    }
    for stage, earlier, path in zip(stages, finished, paths):
        begun = {stage.init, stage.optimization.state_from, *(teacher.weights for teacher in stage.teachers.values())}
        sources = begun & unfinished.keys()
        if earlier is not None and sources:
            source = unfinished[min(filter(None, sources))]
            raise ConfigError(
                f"Stage {stage.name} is finished and started from the weights of stage {source}, which now has more epochs. "
                f"Delete {path} to train it again from the new weights."
            )


def test(
    config: Config,
    weights: str | Path | None = None,
    progress: Mode | None = None,
    threads: Threads = None,
    rerank: bool = False,
    share: str | Path | None = None,
) -> Result:
    """Evaluate the network of an experiment's last stage.

    ``weights`` is a checkpoint of that stage, which must match completely; without it, the stage's initial weights are used.
    ``rerank`` adds re-ranked metrics, with the paper's values unless ``evaluate.rerank`` sets others. ``share`` is a folder
    with packed images. Nothing is trained or written, and ``config`` is not modified. Raises :class:`ConfigError` if the stage
    has no domain to evaluate on.
    """
    stage = config.experiment.stages[-1]
    if stage.evaluate.domain is None:
        raise ConfigError(f"Stage {stage.name} has no domain to test on: set stages.{stage.name}.evaluate.domain.")
    if weights is not None:
        if not Path(weights).expanduser().is_file():
            raise CheckpointError(f"--weights: there is no file {weights}.")
        teachers = {name: replace(teacher, weights=None) for name, teacher in stage.teachers.items()}
        stage = replace(stage, init=None, teachers=teachers)
    elif stage.init is not None and stage.init.startswith("stage:"):
        raise ConfigError(f"Stage {stage.name} starts from {stage.init}: give the weights to test (--weights FILE).")
    if rerank and stage.evaluate.rerank is None:
        stage = replace(stage, evaluate=replace(stage.evaluate, rerank={"type": RERANKER}))
    keep_freed_memory()
    reporter = Reporter(progress)
    if weights is None and stage.init is None:
        reporter.message(f"testing stage {stage.name} with its initial weights; --weights FILE tests a checkpoint")
    with threads_set_to(choose_thread_count(threads, None, reporter.message, distributed.count() == 1)):
        packs = None if share is None else Path(share, "packs")
        domains = Domains(config.data["data"], reporter.counted, reporter.message, packs)
        return _evaluate(config, domains, stage, weights, reporter)


def _evaluate(config: Config, domains: Domains, stage: Stage, weights: str | Path | None, reporter: Reporter) -> Result:
    stage_run = ready_to_test(config, domains, stage, weights, reporter)
    metrics, _ = stage_run.evaluate()
    reporter.evaluated(metrics)
    cards = {stage.name: {**stage_card(stage_run.stage, stage_run), "tested": str(weights) if weights else "as built"}}
    return Result(Path("."), [StageResult(stage.name, metrics)], card_of(config, domains, cards, 0.0))


def checkpoint_of(reference: str, folder: Path, stages: list[Stage]) -> Path:
    """Resolve ``stage:NAME`` (its last checkpoint) or a path to a checkpoint file."""
    if not reference.startswith("stage:"):
        return Path(reference).expanduser()
    name = reference.removeprefix("stage:")
    number = next(i for i, stage in enumerate(stages) if stage.name == name)
    last = folder / f"{number + 1}-{name}" / f"epoch_{stages[number].epochs}.pth"
    if checkpoints.newest(last.parent) != last:  # an earlier one would silently be another teacher
        raise CheckpointError(f"{reference}: its last checkpoint {last} is missing or damaged. Run that stage again.")
    return last


def _metrics_line(report: Report) -> str:
    metrics = metrics_in(report)
    return ", ".join(f"{name} {percent(metrics, name)}" for name in metric_names(metrics))
