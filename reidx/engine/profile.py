"""Profile of an experiment: times of each stage's first epoch, and a trace of a few steps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as trace

from reidx import distributed
from reidx.config.config import Config
from reidx.config.schema import Stage
from reidx.engine.experiment import check_data, checkpoint_of, folder_of
from reidx.engine.loop import StageLoop
from reidx.engine.precision import choose_precision
from reidx.engine.seeding import seed_everything
from reidx.engine.stage import StageRun
from reidx.machine.allocator import keep_freed_memory
from reidx.optim.schedule import with_ends
from reidx.profiling import Marks, Stopwatch, listening, span
from reidx.reporting.reporter import Mode, Reporter
from reidx.runs import checkpoint as checkpoints
from reidx.runs.lock import exclusive_folder

STEPS = 20
"""Timed steps per epoch."""

TRACED = 5
"""Traced steps; a step of a large network has tens of thousands of events."""


@dataclass
class Row:
    """A kind of work: total ``seconds``, number of ``calls``, and number of ``images`` (0: not counted)."""

    name: str
    seconds: float
    calls: int
    images: int


def rows_of(watch: Stopwatch) -> list[Row]:
    """Summarise a stopwatch by phase; the seconds add up to its total.

    A phase is an outermost span, and a row sums one kind of innermost span within it: ``relabel: neighbours`` is the same
    work wherever it is called. Time of a phase outside its spans is its ``other``; time outside all phases is the last row.
    """
    phases = list(dict.fromkeys(path[0] for path in watch.own if path))
    inner = {path[0] for path in watch.own if len(path) > 1}
    rows: dict[tuple[int, int, str], Row] = {}
    for path, seconds in watch.own.items():
        own = len(path) == 1 and path[0] in inner
        name = "other" if not path else f"{path[0]}: other" if own else ": ".join(dict.fromkeys((path[0], path[-1])))
        key = (phases.index(path[0]) if path else len(phases), int(own), name)
        row = rows.setdefault(key, Row(name, 0.0, 0, 0))
        row.seconds += seconds
        row.calls += watch.calls[path]
        row.images += watch.images[path]
    return [rows[key] for key in sorted(rows, key=lambda key: key[:2])]


def table(rows: Sequence[Row]) -> str:
    """Format the rows with their share of the total, which is the last line."""
    whole = sum(row.seconds for row in rows)
    width = max(len(row.name) for row in rows)
    lines = [f"{'':<{width}}{'seconds':>11}{'share':>9}{'times':>8}{'images/s':>11}"]
    for row in rows:
        speed = f"{row.images / row.seconds:11.0f}" if row.images and row.seconds else ""
        calls = f"{row.calls:8d}" if row.calls else ""
        share = 100 * row.seconds / max(whole, 1e-9)
        lines.append(f"{row.name:<{width}}{row.seconds:11.3f}{share:8.1f}%{calls}{speed}")
    lines.append(f"{'all':<{width}}{whole:11.3f}{100:8.1f}%")
    return "\n".join(lines)


class ProfiledLoop(StageLoop):
    """A :class:`StageLoop` that times its epochs, then traces a few more steps into ``path``.

    Tracing is separate from timing because a profiler slows down the code.
    """

    def __init__(self, *args: Any, watch: Stopwatch, path: Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.watch, self.path = watch, path

    def run_epoch(self) -> None:
        """Time one epoch, then write the trace."""
        with self.watch:
            super().run_epoch()
        self.reporter.message(f"tracing {min(TRACED, len(self.dataloader))} steps …")
        self.reporter = Reporter("quiet")
        self.dataloader.iters = min(TRACED, len(self.dataloader))
        self.runner.model.train()
        seen = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        with trace(activities=seen) as profiler, listening(Marks()):
            self._steps(self._epoch - 1, {})
        if distributed.rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            checkpoints.write_atomically(self.path, lambda partial: profiler.export_chrome_trace(str(partial)))


def profile(config: Config, work_dir: str | Path | None = None, progress: Mode | None = None) -> str:
    """Profile all stages and return their tables of times, also written to ``profile/times.txt`` in the run's folder.

    Each stage runs its first epoch with at most :data:`STEPS` steps, its relabelling and an evaluation. ``N-STAGE.trace.json``
    in the same folder is a trace of :data:`TRACED` steps for Perfetto or ``chrome://tracing``. The run itself is not
    modified. Raises the errors of :func:`reidx.run`.
    """
    folder = folder_of(config, work_dir) / "profile"
    scratch = folder / "run"
    with ExitStack() as stack:
        distributed.on_rank_zero(lambda: _claim(folder, scratch, stack))
        return _profile(config, folder, scratch, Reporter(progress))


def _claim(folder: Path, scratch: Path, stack: ExitStack) -> None:
    stack.enter_context(exclusive_folder(folder, "being profiled in"))
    shutil.rmtree(scratch, ignore_errors=True)


def _profile(config: Config, folder: Path, scratch: Path, reporter: Reporter) -> str:
    keep_freed_memory()
    stages = [_shortened(stage) for stage in config.experiment.stages]

    texts = []
    try:
        with reporter.experiment(stages, name=config.experiment.name, hash=config.hash, work_dir=str(folder)):
            config, domains = distributed.rank_zero_first(partial(check_data, config, reporter, None))
            stages = [_shortened(stage) for stage in config.experiment.stages]
            chosen = choose_precision(stages)
            for note in chosen.notes:
                reporter.message(note)
            for number, (stage, whole) in enumerate(zip(chosen.apply(stages), config.experiment.stages)):
                reporter.stage_starts(stage)
                seed_everything(config.experiment.seed, number)
                stage_run = StageRun(
                    stage,
                    number,
                    config.experiment.seed,
                    domains,
                    scratch / f"{number + 1}-{stage.name}",
                    lambda reference: checkpoint_of(reference, scratch, stages),
                    reporter,
                )
                watch = Stopwatch(stage_run.model.device)
                if stage.epochs:
                    path = folder / f"{number + 1}-{stage.name}.trace.json"
                    stage_run.run(resume=False, loop=partial(ProfiledLoop, watch=watch, path=path))
                else:
                    with watch, span("evaluate"):
                        stage_run.evaluate()
                texts.append(f"stage {stage.name}\n{table(rows_of(watch))}\n{_full_epoch_estimate(watch, stage, whole)}")
    finally:
        if distributed.rank() == 0:
            shutil.rmtree(scratch, ignore_errors=True)
    text = "\n\n".join(texts)
    checkpoints.write_text(folder / "times.txt", text + "\n")
    return text + f"\n\nTraces (for ui.perfetto.dev or chrome://tracing) and this table: {folder}"


def _shortened(stage: Stage) -> Stage:
    """Shorten a stage to a few steps of its first epoch."""
    rates = with_ends(stage.schedule, stage.epochs, stage.iters)  # with the ends of the full stage
    return replace(stage, epochs=min(stage.epochs, 1), iters=min(stage.iters, STEPS), schedule=rates)


def _full_epoch_estimate(watch: Stopwatch, timed: Stage, whole: Stage) -> str:
    """Estimated time of a full epoch, from the measured times."""
    if not timed.epochs:
        return "This stage only evaluates."
    steps = watch.within("train") * whole.iters / timed.iters
    return (
        f"Measured: {timed.iters} of {whole.iters} steps of the first epoch, including one-time start-up costs. Estimate for "
        f"a full epoch: {steps:.1f} s of steps, {watch.within('relabel'):.1f} s to relabel, "
        f"{watch.within('evaluate'):.1f} s to evaluate."
    )
