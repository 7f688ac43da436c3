"""Curves of a run's scalars in TensorBoard, Weights & Biases or MLflow, through mmengine's Visualizer."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.visualization import MLflowVisBackend, TensorboardVisBackend, Visualizer, WandbVisBackend
from mmengine.visualization.vis_backend import BaseVisBackend

from reidx.config.config import Config
from reidx.config.schema import Spec, Stage, term_names
from reidx.errors import ConfigError, RunError
from reidx.registry.retrieval_promises import plain_name
from reidx.reporting.reporter import Reporter, images_per_second
from reidx.runs import checkpoint as checkpoints
from reidx.runs.epoch_log import json_line
from reidx.runs.metrics import RERANKED, metric_of

Report = Mapping[str, float]

def scalars(entry: Report, terms: Sequence[str]) -> dict[str, float]:
    """Map an epoch's entry to tags: ``train/…`` (losses, rate, speed), ``labels/…``, ``test/…``, ``seconds/…``.

    ``terms`` are the names of the objective's terms. Tags contain only characters that all back-ends accept.
    """
    tags: dict[str, float] = {}
    for name, value in entry.items():
        if name in ("loss", "lr", "gpu_gb", "images", *terms):
            tag = f"train/{name}"
        elif name.startswith("seconds_"):
            tag = f"seconds/{name.removeprefix('seconds_')}"
        elif (metric := metric_of(name)) is not None:
            tag = f"test/{RERANKED if metric[1] else ''}{plain_name(metric[0])}"
        else:
            tag = f"labels/{name}"
        if name != "epoch":
            tags[re.sub(r"[^\w\-./ ]", "_", tag)] = float(value)
    if "images" in entry:
        tags["train/images_per_second"] = images_per_second(entry)
    return tags


class Curves:
    """The back-ends listed under ``log`` in a config, for all stages of the run in ``folder``.

    A row holds the scalars of one epoch of a stage, with the stage's name as prefix and the epoch's number as step (0: before
    the first). A resumed run sends its committed rows again: TensorBoard's folder is rewritten from them; the other back-ends
    receive only the rows not yet recorded as sent. If a back-end fails during training, it is dropped for this session with
    one message, and training continues.

    Raises :class:`ConfigError` at construction if the package of a back-end is not installed, unless ``log`` is the default.
    """

    def __init__(self, config: Config, folder: Path, reporter: Reporter) -> None:
        self.config, self.folder, self.reporter = config, folder, reporter
        self.stages = {stage.name: stage for stage in config.experiment.stages}
        self.known = folder / "curves.json"
        self.state: dict[str, dict[str, Any]] = {}
        self.sinks: dict[str, Visualizer] = {}
        default = config.tree.origin(("log",)).source == "default"
        self.specs = [spec for spec in config.experiment.log if self._installed(spec, default)]

    def _installed(self, spec: Spec, default: bool) -> bool:
        package = spec["type"]
        found = importlib.util.find_spec(package)
        if found is not None and found.origin is not None:  # a plain folder of that name has no origin
            return True
        why = f"log: {package} is not installed: pip install {package}"
        if not default:
            raise ConfigError(f"{self.config.place(('log',))}: {why}, or remove it from the list.")
        self.reporter.message(f"no curves; {why}")
        return False

    def open(self, fresh: bool) -> None:
        """Start the back-ends; ``fresh`` ignores the record of rows sent earlier.

        Raises :class:`ConfigError` if a back-end does not start, before the first epoch is trained.
        """
        if not fresh and self.known.is_file():
            self.state = json.loads(self.known.read_text(encoding="utf-8"))
        for spec in self.specs:
            name = spec["type"]
            state = self.state.setdefault(name, {"id": uuid.uuid4().hex[:8], "sent": {}})
            options = {key: value for key, value in spec.items() if key != "type"}
            try:
                with _less_talk():
                    backend = getattr(self, f"_{name}")(options, state)
                    backend.experiment  # noqa: B018  (starts it)
            except Exception as error:
                raise ConfigError(f"{self.config.place(('log',))}: log: {name} does not start: {error}") from error
            self.sinks[name] = Visualizer(name=f"{self.folder}-{name}-{id(self)}", vis_backends=[backend])

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *error: object) -> None:
        """Flush and close the back-ends."""
        for name, sink in list(self.sinks.items()):
            self._guarded(name, sink.close)

    def of(self, stage: Stage) -> Callable[[Report], None]:
        """Return a callback that adds the entry of an epoch of ``stage``."""
        return lambda entry: self.add(stage, int(entry["epoch"]), entry)

    def add(self, stage: Stage, step: int, entry: Report) -> None:
        """Send a row to each back-end that lacks it; an empty ``entry`` is ignored."""
        if not entry:
            return
        tags = {f"{stage.name}/{tag}": value for tag, value in scalars(entry, term_names(stage)).items()}
        for name in list(self.sinks):
            sent = self.state[name]["sent"]
            before = sent.get(stage.name, -1)
            if step <= before:
                continue
            # recorded first: a kill in between loses a row instead of duplicating it
            sent[stage.name] = step
            more = {f"{stage.name}/epoch": float(step)} if name == "wandb" else {}
            send = self.sinks[name].add_scalars
            if not (self._guarded(name, self._note) and self._guarded(name, send, {**tags, **more}, step)):
                sent[stage.name] = before
                with contextlib.suppress(RunError):
                    self._note()

    def _note(self) -> None:
        kept = {name: state for name, state in self.state.items() if name != "tensorboard"}
        if kept:
            checkpoints.write_text(self.known, json_line(kept))

    def _guarded(self, name: str, do: Callable[..., object], *given: Any) -> bool:
        """Call ``do`` and return true on success; an unreachable server must not end the training."""
        try:
            do(*given)
        except Exception as error:
            self.sinks.pop(name, None)
            self.reporter.message(f"log: {name} failed and is disabled until the run is resumed: {error}")
            return False
        return True

    # ---- the back-ends

    def _tensorboard(self, options: dict[str, Any], state: dict[str, Any]) -> BaseVisBackend:
        folder = self.folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        state["sent"] = {}
        return _Tensorboard(str(folder))

    def _wandb(self, options: dict[str, Any], state: dict[str, Any]) -> BaseVisBackend:
        own = {
            "project": self.config.experiment.name,
            "name": self.folder.name,
            "id": state["id"],
            "resume": "allow",
            "dir": str(self.folder),
            "config": self.config.data,
            "settings": {"console": "off", "silent": self.reporter.mode in ("json", "quiet")},
        }
        by_epoch = [{"name": f"{stage}/*", "step_metric": f"{stage}/epoch"} for stage in self.stages]
        init = {**own, **(options.pop("init_kwargs", None) or {})}
        return WandbVisBackend(str(self.folder), **{"init_kwargs": init, "define_metric_cfg": by_epoch, **options})

    def _mlflow(self, options: dict[str, Any], state: dict[str, Any]) -> BaseVisBackend:
        folder = (self.folder / "mlflow").resolve()
        own = {"exp_name": self.config.experiment.name, "run_name": self.folder.name}
        if not options.get("tracking_uri"):
            own["tracking_uri"] = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
            if own["tracking_uri"].startswith("sqlite"):
                own["artifact_location"] = (folder / "artifacts").as_uri()
        return _MLflow(str(folder), state=state, **{**own, **options})


class _Tensorboard(TensorboardVisBackend):
    """mmengine's TensorBoard back-end, flushed after every row instead of every two minutes."""

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        super().add_scalars(scalar_dict, step)
        self.experiment.flush()


class _MLflow(MLflowVisBackend):
    """mmengine's MLflow back-end, which resumes its own MLflow run and uploads no files as artifacts."""

    def __init__(self, save_dir: str, state: dict[str, Any], **options: Any) -> None:
        super().__init__(save_dir, **options)
        self._state = state

    def _init_env(self) -> None:
        if "run" in self._state:  # read by mlflow's first call of any kind
            os.environ["MLFLOW_RUN_ID"] = self._state["run"]
        try:
            super()._init_env()
            run = self._mlflow.active_run() or self._mlflow.start_run(run_name=self._run_name)
        finally:
            os.environ.pop("MLFLOW_RUN_ID", None)  # not for the next run of this process
        self._state["run"] = run.info.run_id

    def close(self) -> None:
        if hasattr(self, "_mlflow"):
            self._mlflow.end_run()


@contextlib.contextmanager
def _less_talk() -> Iterator[None]:
    """Remove the handlers of mmengine's logger temporarily.

    The logger warns about a missing server even where a file is used, and the MLflow back-end fails on a handler whose
    stream is closed.
    """
    logger = MMLogger.get_current_instance()
    handlers, logger.handlers = logger.handlers, []
    try:
        yield
    finally:
        logger.handlers = handlers
