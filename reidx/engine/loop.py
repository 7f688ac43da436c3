"""The loop of a stage: seed, relabel, steps, evaluate, commit; epoch after epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from mmengine.runner import BaseLoop, Runner

from reidx.data.loading import StreamLoader
from reidx.engine.progress import Reporter
from reidx.engine.seeding import seed_everything
from reidx.errors import ReidxError

Report = dict[str, float]


class StageLoop(BaseLoop):
    """Runs ``epochs`` epochs of ``len(loader)`` steps.

    ``prepare(epoch)`` relabels what is due, gives the loader its views and returns what the report says of it;
    ``evaluate(epoch)`` returns the metrics of an epoch, empty when none are due. ``key`` seeds each epoch, with its number.
    ``state`` and ``restore`` carry what ``prepare`` keeps between epochs.
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
        state: Callable[[], Any],
        restore: Callable[[Any], None],
        reporter: Reporter,
    ) -> None:
        super().__init__(runner, loader)
        self._max_epochs, self._epoch, self._iter = epochs, 0, 0
        self.key, self.reporter = key, reporter
        self.prepare, self.evaluate, self._state, self._restore = prepare, evaluate, state, restore
        self.history: list[Report] = []
        # what mmengine's hooks look at
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
        runner.call_hook("before_train")
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
        runner.call_hook("after_train")
        return runner.model

    def run_epoch(self) -> None:
        """One epoch, from its seed to its checkpoint."""
        runner, epoch = self.runner, self._epoch
        seed_everything(*self.key, epoch)  # the same in each process
        clock = time.perf_counter()
        report = self.prepare(epoch)
        relabelled = time.perf_counter()
        runner.call_hook("before_train_epoch")
        runner.model.train()
        losses = self._steps(epoch)
        trained = time.perf_counter()
        metrics = self.evaluate(epoch)
        evaluated = time.perf_counter()
        entry = {
            "epoch": epoch + 1,
            "lr": float(runner.optim_wrapper.get_lr()["lr"][0]),
            **losses,
            **report,
            **metrics,
            "seconds_relabel": relabelled - clock,
            "seconds_train": trained - relabelled,
            "seconds_evaluate": evaluated - trained,
        }
        self.history.append(entry)
        runner.call_hook("after_train_epoch")  # schedules step, then the checkpoint commits the epoch
        self._epoch += 1
        self.reporter.say(line(entry, self._max_epochs, len(self.dataloader)))

    def _steps(self, epoch: int) -> Report:
        runner = self.runner
        sums: dict[str, Any] = {}
        what = f"epoch {epoch + 1}/{self._max_epochs}: training"
        with self.reporter.work(what, len(self.dataloader), "steps") as work:
            for step, batch in enumerate(self.dataloader):
                runner.call_hook("before_train_iter", batch_idx=step, data_batch=batch)
                values = runner.model.train_step(batch, optim_wrapper=runner.optim_wrapper)
                runner.call_hook("after_train_iter", batch_idx=step, data_batch=batch, outputs=values)
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
                self._iter += 1
                work.advance(note=f"{work.rate:.1f} steps/s")
        means = {name: float(total) / len(self.dataloader) for name, total in sums.items()}
        wrong = [name for name, mean in means.items() if not math.isfinite(mean)]
        if wrong:
            kept = "The checkpoint of the epoch before is whole. " if epoch else ""
            raise ReidxError(
                f"Epoch {epoch + 1}: {', '.join(wrong)} became {means[wrong[0]]}. {kept}"
                "Lower the learning rate, clip gradients (clip_grad), or use precision: fp32."
            )
        return means

    def state_dict(self) -> dict[str, Any]:
        """History and the labels, for the checkpoint."""
        return {"history": self.history, "state": self._state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self.history = list(state["history"])
        self._restore(state["state"])


def line(entry: Report, epochs: int, iters: int) -> str:
    """An epoch in one line for a person."""
    shown = [f"epoch {entry['epoch']}/{epochs}"]
    if "clusters" in entry:
        shown.append(f"{entry['clusters']:.0f} clusters, {entry['outliers']:.0f} outliers")
    for name in ("stability", "ari", "mAP", "rank-1"):
        if name in entry:
            shown.append(f"{name} {entry[name]:.3f}")
    shown.append(f"loss {entry['loss']:.3f}")
    seconds = sum(v for k, v in entry.items() if k.startswith("seconds_"))
    shown.append(f"{seconds:.0f} s ({iters / max(entry['seconds_train'], 1e-9):.1f} steps/s)")
    return " · ".join(shown)
