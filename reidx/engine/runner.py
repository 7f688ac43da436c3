"""mmengine's Runner without the behaviours that would silently change a result.

Corrections (mmengine 0.10.7), each with a regression test in ``tests/engine/test_traps.py``:

* ``train()`` calls ``init_weights`` of every child, which overwrites timm's pretrained weights: not called here.
* Checkpoint entries of another shape are skipped with a warning: loading is strict here.
* Buffers whose size depends on the number of clusters are not restored: memories are stored apart from the ``state_dict``.
* Checkpoints are unpickled, which can run code: read with ``weights_only=True``, without the message hub, which needs pickles.
* Checkpoints are overwritten in place: written atomically with a checksum, and the last two are kept.
* A ``TypeError`` in a hook is re-raised ``from None``, which hides its line: hooks are called directly.
* Every loss is read at every step for an unused message hub, which synchronises host and device: the hooks involved are
  disabled; the loop reports progress, and the epoch log and the curves record it.
* An empty log file per stage stays open until the process ends: none is created, and its folder is removed.
* The config is dumped through a code formatter, and the machine is probed for seconds: both are disabled; the run's own
  record holds this information.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from reidx import distributed
from reidx.engine.step import StageModel
from reidx.errors import CheckpointError, ReidxError, RunError
from reidx.memories import Memory
from reidx.optim.moments import parameter_names
from reidx.optim.optimizer import can_load_state, replacing_parameters
from reidx.runs import checkpoint as checkpoints
from reidx.runs.failures import DIVERGED
from reidx.runs.stamp import Stamp
from reidx.runs.training_state import KEY, TrainingState


class StateHook(Hook):
    """Hook that saves and restores the :class:`TrainingState` of a checkpoint: loop, memories, step count."""

    priority = "LOWEST"

    def __init__(self, anyway: bool = False, stamp: Stamp | None = None) -> None:
        self.anyway, self.stamp = anyway, stamp

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        model = stage_model(runner)
        TrainingState(
            **runner.train_loop.state_dict(),  # type: ignore[attr-defined]
            memories={name: memory.state_dict() for name, memory in model.memories.items()},  # type: ignore[misc]
            steps=model.steps,
            parameters=parameter_names(runner.optim_wrapper.optimizer, model),
            world_size=runner.world_size,
            stamp=None if self.stamp is None else asdict(self.stamp),
        ).put_into(checkpoint)
        # history buffers are pickled objects and only smooth mmengine's log
        checkpoint["message_hub"] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        state = TrainingState.of(checkpoint)
        if state.world_size != runner.world_size and not self.anyway:
            raise CheckpointError(
                f"The checkpoint was written by {state.world_size} processes, this run has {runner.world_size}: "
                "the batches would differ. Resume with the same number, or with --resume-anyway."
            )
        model = stage_model(runner)
        for name, memory in model.memories.items():
            assert isinstance(memory, Memory)
            with replacing_parameters(memory, runner.optim_wrapper.optimizer):
                try:
                    memory.restore(state.memories[name])
                except (KeyError, ValueError) as error:  # happens only with a changed config
                    raise CheckpointError(f"The checkpoint has no matching memory {name}: {error}.") from error
        model.steps = state.steps
        runner.train_loop.load_state_dict(state)  # type: ignore[attr-defined]
        checkpoint["message_hub"] = runner.message_hub.state_dict()


class CommitHook(Hook):
    """Hook that commits each epoch by writing its checkpoint."""

    priority = "VERY_LOW"  # after the schedulers have stepped

    def after_train_epoch(self, runner: Runner) -> None:
        runner.save_checkpoint(runner.work_dir, f"epoch_{runner.epoch + 1}.pth")


def stage_model(runner: Runner) -> StageModel:
    """The model of a runner, unwrapped from any distributed wrapper."""
    model = runner.model
    return model.module if hasattr(model, "module") else model


class ReidRunner(Runner):
    """The Runner of one stage.

    With ``anyway``, resuming takes learning rates and schedules from the config instead of the checkpoint, for any number of
    processes; an optimiser of another kind starts with empty state, reported through ``message``. ``stamp`` goes into each
    checkpoint.
    """

    def __init__(
        self,
        *,
        model: StageModel,
        work_dir: Path,
        name: str,
        epochs: int,
        anyway: bool = False,
        stamp: Stamp | None = None,
        message: Callable[[str], object] = lambda text: None,
        **kwargs: Any,
    ) -> None:
        self.anyway, self.message = anyway, message
        super().__init__(
            model=model,
            work_dir=str(work_dir),
            train_cfg={"by_epoch": True, "max_epochs": epochs},
            default_hooks=dict.fromkeys(("checkpoint", "sampler_seed", "runtime_info", "timer", "logger")),
            custom_hooks=[CommitHook(), StateHook(anyway, stamp)],
            experiment_name=name,
            visualizer=Visualizer(name=name, vis_backends=[]),
            cfg=Config({}),
            log_level="WARNING",
            **kwargs,
        )
        for handler in self.logger.handlers:
            handler.setLevel(logging.ERROR)
        with contextlib.suppress(OSError):
            Path(self._log_dir).rmdir()

    def _init_model_weights(self) -> None:
        """Do nothing: components initialise themselves when they are built."""

    def build_logger(self, log_level: int | str = "INFO", log_file: str | None = None, **kwargs: Any) -> MMLogger:
        return MMLogger.get_instance(self._experiment_name, log_level=log_level)

    def dump_config(self) -> None:
        """Do nothing: the run's folder already holds the config with its origins."""

    def _log_env(self, env_cfg: dict) -> None:
        """Do nothing: versions are on the run's card."""

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        for hook in self._hooks:
            if hasattr(hook, fn_name):
                getattr(hook, fn_name)(self, **kwargs)

    def load_checkpoint(  # type: ignore[override]
        self, filename: str, map_location: Any = "cpu", strict: bool = True, revise_keys: Any = None
    ) -> dict[str, Any]:
        # not mmengine's own loader, which unpickles, and prints to stdout
        checkpoint = checkpoints.load(filename, map_location)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        refuse_another_size(stage_model(self), checkpoint, filename)
        try:
            stage_model(self).load_state_dict(checkpoint["state_dict"], strict=strict)
        except RuntimeError as error:
            raise CheckpointError(f"{filename} does not fit the model: {error}") from error
        self._has_loaded = True
        return checkpoint

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        if not self.anyway:
            super().resume(filename, *args, **kwargs)
            return
        super().resume(filename, resume_optimizer=False, resume_param_scheduler=False)
        saved = checkpoints.load(filename)["optimizer"]
        if can_load_state(self.optim_wrapper.optimizer, saved):
            settings = [{k: v for k, v in g.items() if k != "params"} for g in self.optim_wrapper.param_groups]
            self.optim_wrapper.load_state_dict(saved)
            for group, own in zip(self.optim_wrapper.param_groups, settings):
                group.update(own)
        else:
            self.message(f"the optimiser differs from that of {filename}: it starts with empty state")
        self.optim_wrapper._global_step = self.iter  # otherwise schedulers warn about a premature step
        for _ in range(self.epoch):
            for _ in range(self.iter // self.epoch):
                self._step_schedules(by_epoch=False)
            self._step_schedules(by_epoch=True)

    def _step_schedules(self, by_epoch: bool) -> None:
        for schedule in self.param_schedulers or []:
            if schedule.by_epoch == by_epoch:
                schedule.step()

    def save_checkpoint(self, out_dir: str, filename: str, **kwargs: Any) -> None:  # type: ignore[override]
        meta = {"epoch": self.epoch + 1, "iter": self.iter, "seed": self.seed}
        if (size := image_size(stage_model(self))) is not None:
            meta["image_size"] = list(size)
        checkpoint: dict[str, Any] = {
            "meta": meta,
            "state_dict": {k: v.cpu() for k, v in stage_model(self).state_dict().items()},
            "optimizer": self.optim_wrapper.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in self.param_schedulers or []],
            "message_hub": {},
        }
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        refuse_not_finite(stage_model(self), checkpoint["state_dict"])
        states = [checkpoint["state_dict"], *checkpoint[KEY]["memories"].values()]
        others = distributed.ranks_that_differ(checkpoints.digest_of(states)) if distributed.count() > 1 else []
        if others:
            raise ReidxError(
                f"Epoch {self.epoch + 1}: the weights of processes {', '.join(map(str, others))} no longer equal those of "
                "process 0. A part of the model treats its share of a batch as the whole batch; nothing was saved."
            )
        distributed.on_rank_zero(lambda: checkpoints.save(Path(out_dir) / filename, checkpoint))


def refuse_not_finite(model: StageModel, state: Mapping[str, Any]) -> None:
    """Raise :class:`RunError` if ``state`` of ``model`` contains NaN or infinities; the last loss may still be finite."""
    wrong = checkpoints.not_finite(state, {name for name, _ in model.named_parameters()})
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise RunError(f"{', '.join(wrong[:3])}{more} became NaN or infinite and were not saved. {DIVERGED}")


def image_size(model: StageModel) -> tuple[int, int] | None:
    """Image size (H, W) that the networks of a stage were built for, or None."""
    return model.networks["student"].image_size  # type: ignore[return-value]


def refuse_another_size(model: StageModel, checkpoint: Mapping[str, Any], filename: str) -> None:
    """Raise :class:`CheckpointError` for a checkpoint of another image size if weights depend on it.

    Such weights could be resampled, but the optimiser's state for them cannot.
    """
    trained, own = checkpoints.image_size_of(checkpoint), image_size(model)
    if trained is None or own is None or trained == own:
        return
    for name, network in model.networks.items():
        weights = checkpoints.strip_prefix(checkpoint["state_dict"], f"networks.{name}.")
        moved = network.refit(weights, trained, filename)  # type: ignore[operator]
        if any(moved[key] is not weights[key] for key in weights):
            raise CheckpointError(
                f"{filename} was trained on images of {trained[0]}x{trained[1]}, but data.image_size is now "
                f"{own[0]}x{own[1]}: its position embeddings would be misplaced. Restore data.image_size, or start a "
                "new run with init: FILE, which resamples them."
            )
