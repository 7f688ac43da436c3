"""Training loop of a stage; each epoch seeds, relabels, trains, evaluates and commits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from mmengine.runner import BaseLoop, Runner
from torch import Tensor

from reidx import distributed
from reidx.data.loading import StreamLoader
from reidx.engine.seeding import seed_everything
from reidx.errors import RunError
from reidx.profiling import span
from reidx.registry.seam import full_checks
from reidx.reporting.reporter import Reporter, images_per_second
from reidx.runs.epoch_log import EpochLog, Report
from reidx.runs.failures import DIVERGED, error_context
from reidx.runs.metrics import percent
from reidx.runs.training_state import TrainingState

LOOKED_AT = 50
"""Steps between two checks of the losses; each check synchronises with the device."""


class StageLoop(BaseLoop):
    """Loop over ``epochs`` epochs of ``len(loader)`` steps.

    ``prepare(epoch)`` relabels if due, gives the loader its views and returns the figures of the labels;
    ``evaluate(epoch)`` returns the metrics of an epoch, empty if no evaluation is due. Each epoch is seeded from ``key`` and
    its number. ``conclude(epoch, trained)`` receives the mean values of the steps and returns additions to the report.
    ``state`` and ``restore`` save and load the state of ``prepare``. ``choose_threads()`` is called at the end of an epoch and
    returns the number of threads for the next. ``journal`` logs each committed epoch.
    """

    def __init__(
        self,
        runner: Runner,
        loader: StreamLoader,
        *,
        epochs: int,
        key: tuple[int, ...],
        prepare: Callable[[int], Report],
        evaluate: Callable[[int], Report],
        state: Callable[[], dict[str, Any]],
        restore: Callable[[TrainingState], None],
        reporter: Reporter,
        journal: EpochLog,
        conclude: Callable[[int, Report], Report] = lambda epoch, trained: {},
        choose_threads: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(runner, loader)
        self._max_epochs, self._epoch, self._iter = epochs, 0, 0
        self.key, self.reporter, self.journal = key, reporter, journal
        self.prepare, self.evaluate, self._state, self._restore = prepare, evaluate, state, restore
        self.conclude = conclude
        self.choose_threads = choose_threads
        self.threads: int | None = None
        self.history: list[Report] = []
        # attributes that mmengine's hooks read
        self.stop_training, self.val_begin, self.val_interval, self.val_loop = False, 1, 1, None

    @property
    def max_epochs(self) -> int:
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        return self._max_epochs * len(self.dataloader)

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def iter(self) -> int:
        return self._iter

    def run(self) -> Any:
        runner = self.runner
        self.reporter.resumed(self.history)
        self.journal.begin(self.history)
        runner.call_hook("before_train")
        while self._epoch < self._max_epochs and not self.stop_training:
            with error_context(f"epoch {self._epoch + 1}/{self._max_epochs}"):
                self.run_epoch()
        runner.call_hook("after_train")
        return runner.model

    def run_epoch(self) -> None:
        """Run one epoch, from its seed to its checkpoint."""
        runner, epoch = self.runner, self._epoch
        self.reporter.epoch_starts(epoch)
        seed_everything(*self.key, epoch)  # the same in each process
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with self.reporter.timed("relabel") as relabelling:
            report = self.prepare(epoch)
        started = time.perf_counter()
        refuse_odd_rates(runner.optim_wrapper.get_lr())
        runner.call_hook("before_train_epoch")
        runner.model.train()
        with span("train"):
            trained = self._steps(epoch, report)
        report = {**report, **self.conclude(epoch, trained)}
        seconds_train = time.perf_counter() - started
        with self.reporter.timed("evaluate") as evaluating:
            metrics = self.evaluate(epoch)
        if metrics:
            self.reporter.evaluated(metrics)
        rates = runner.optim_wrapper.get_lr()
        entry = {
            "epoch": epoch + 1,
            "lr": float(rates.get("base_lr", rates["lr"])[0]),  # the base rate, where groups have their own
            **trained,
            **report,
            **metrics,
            **gpu_memory(),
            "seconds_relabel": relabelling.seconds,
            "seconds_train": seconds_train,
            "seconds_evaluate": evaluating.seconds,
        }
        if self.choose_threads is not None:
            entry["threads"], self.threads = torch.get_num_threads(), self.choose_threads()
        self.history.append(entry)
        with error_context("saving"), self.reporter.timed("commit"):
            runner.call_hook("after_train_epoch")  # schedules step, then the checkpoint commits the epoch
        self._epoch += 1
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self.journal.add(entry)
        self.reporter.epoch_ends(entry, line(entry, self._max_epochs))

    @error_context("training")
    def _steps(self, epoch: int, report: Report) -> Report:
        """Run the steps of an epoch; returns the means of all losses and the number of images."""
        runner, steps = self.runner, len(self.dataloader)
        sums: dict[str, torch.Tensor] = {}
        images = looked = 0
        clusters = {name: count for name, count in report.items() if name.endswith("clusters")}
        with self.reporter.work(f"epoch {epoch + 1}/{self._max_epochs}: training", steps, "steps") as work:

            def so_far() -> Report:
                speed = {"images_per_second": images * distributed.count() / work.seconds}
                losses = means(sums, work.done)
                shown = losses if len(losses) > 2 else {"loss": losses["loss"]}  # with one term, the total suffices
                return {**speed, **shown, **clusters, **gpu_memory()}

            batches = iter(self.dataloader)
            clock = time.perf_counter()
            for step in range(steps):
                with span("data"):
                    batch = next(batches)
                runner.call_hook("before_train_iter", batch_idx=step, data_batch=batch)
                with full_checks(step == 0):
                    values = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
                runner.call_hook("after_train_iter", batch_idx=step, data_batch=batch, outputs=values)
                for name, value in values.items():
                    sums[name] = sums[name] + value if name in sums else value
                images += sum(len(one.index) for one in batch.values())
                self._iter += 1
                now = time.perf_counter()
                self.reporter.stepped(now - clock)
                clock = now
                work.advance(facts=so_far)
                if step + 1 == steps or (step + 1) % LOOKED_AT == 0:
                    refuse_not_finite(sums, f"steps {looked + 1} to {step + 1} of {steps}")
                    looked = step + 1
        return {**means(sums, steps), "images": images * distributed.count()}

    def state_dict(self) -> dict[str, Any]:
        """Fields of :class:`TrainingState` that the loop owns: history, threads, and the fields from ``state``."""
        return {"history": self.history, "threads": self.threads, **self._state()}

    def load_state_dict(self, state: TrainingState) -> None:
        """The inverse of :meth:`state_dict`."""
        self.history = list(state.history)
        self._restore(state)
        if self.choose_threads is not None and state.threads is not None:
            torch.set_num_threads(state.threads)


def means(sums: Mapping[str, torch.Tensor], steps: int) -> Report:
    """Mean values per step, read from the device in one transfer because each transfer synchronises."""
    totals = torch.stack([total.float() for total in sums.values()]).tolist()
    return {name: total / steps for name, total in zip(sums, totals)}


def gpu_memory() -> Report:
    """Peak memory (GiB) of tensors on this process's GPU since the start of the epoch; empty without a GPU."""
    return {"gpu_gb": torch.cuda.max_memory_allocated() / (1 << 30)} if torch.cuda.is_available() else {}


def refuse_not_finite(sums: Mapping[str, Tensor], steps: str) -> None:
    """Raise :class:`RunError` if a sum of losses is NaN or infinite; ``steps`` names the steps since the last check."""
    totals = torch.stack([total.float() for total in sums.values()]).tolist()  # one synchronisation for all losses
    wrong = {name: total for name, total in zip(sums, totals, strict=True) if not math.isfinite(total)}
    if wrong:
        values = ", ".join(f"{name} became {total}" for name, total in wrong.items())
        raise RunError(f"{values} in {steps}; nothing of this epoch was saved. {DIVERGED}")


def refuse_odd_rates(rates: Mapping[str, list[float]]) -> None:
    """Raise :class:`RunError` if a learning rate is NaN, infinite or negative."""
    odd = sorted({float(rate) for each in rates.values() for rate in each if not 0 <= float(rate) < math.inf}, key=str)
    if odd:
        raise RunError(
            f"the learning rate is {', '.join(map(str, odd))}, so nothing was trained in this epoch. Correct `schedule` or "
            "`optimizer`, and use --resume-anyway."
        )


def line(entry: Report, epochs: int) -> str:
    """Summary of an epoch in one line."""
    shown = [f"epoch {entry['epoch']}/{epochs}"]
    if "clusters" in entry:
        shown.append(f"{entry['clusters']:.0f} clusters, {entry['outliers']:.0f} outliers")
    shown += [f"{name} {entry[name]:.3f}" for name in ("stability", "ari") if name in entry]
    shown += [f"{name} {percent(entry, name)}" for name in ("mAP", "rank-1") if name in entry]
    shown.append(f"loss {entry['loss']:.3f}")
    seconds = sum(v for k, v in entry.items() if k.startswith("seconds_"))
    shown.append(f"{seconds:.0f} s ({images_per_second(entry):.0f} images/s)")
    if "gpu_gb" in entry:
        shown.append(f"{entry['gpu_gb']:.1f} GB")
    return " · ".join(shown)
