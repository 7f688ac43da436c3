"""ONNX files: writing a network with a dynamic batch, and running one in onnxruntime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reidx.errors import ReidxError, excerpt
from reidx.registry.describing import one_line

INPUT, OUTPUT = "images", "embeddings"

NEEDED = ("onnx", "onnxruntime", "onnxscript")


def missing() -> list[str]:
    """The packages of the extra ``export`` that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def require_onnx() -> None:
    """Raise :class:`ReidxError` unless the packages of the extra ``export`` are installed."""
    if names := missing():
        raise ReidxError(f"ONNX needs the packages {', '.join(names)}: pip install 'reidx[export]'.")


def onnx_model(program: torch.export.ExportedProgram, **settings: Any) -> Any:
    """A program as torch's ``ONNXProgram``, which onnxruntime runs when it is called; ``settings`` are those of the exporter.

    Raises :class:`ReidxError` for an operation that ONNX lacks.
    """
    require_onnx()
    try:
        with _quiet():
            return torch.onnx.export(program, dynamo=True, verbose=False, **settings)
    except Exception as error:  # each stage of the exporter has its own
        raise ReidxError(f"The network cannot be written as ONNX ({excerpt(one_line(error), 400)}).") from error


def write_onnx(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, str]) -> None:
    """Write a program of :func:`reidx.export.program.dynamic_program` of one input as one ONNX file with ``facts`` inside.

    Its input ``images`` and output ``embeddings`` have the dimension ``batch``.
    """
    made = onnx_model(program, input_names=[INPUT], output_names=[OUTPUT])
    for tensor in (*made.model.graph.inputs, *made.model.graph.outputs):
        tensor.shape[0] = "batch"
    made.model.metadata_props.update(facts)
    made.save(str(path), external_data=False)


def open_onnx(path: Path, threads: int = 0) -> Callable[[Tensor], Tensor]:
    """The network of a file in onnxruntime on the CPU, as a function of images (B,3,H,W); 0 ``threads`` is its own choice."""
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.float().contiguous().numpy()})[0])

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context without the exporter's progress and its notes for developers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
