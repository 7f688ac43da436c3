"""Errors from a component's code: the message names plugin, component, contract, arguments and line."""

from __future__ import annotations

import errno
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reidx.errors import ConfigError, PluginError, Terminated
from reidx.registry import seam
from reidx.registry.build import build
from reidx.registry.describing import describe_value, one_line
from reidx.registry.registry import KINDS, Component, Entry

SOURCE = '''
import os, signal, asyncio
import torch
from torch import nn
from reidx.errors import ConfigError, Terminated

class Part(nn.Module):
    out_channels = 3
    def forward(self, scores):
        ACTION
'''


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a component with the given forward code; an empty namespace means the core."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(seam, "_built", {})

    def make(action: str, kind: str = "loss", namespace: str = "mine") -> Any:
        name = f"parts_of_{abs(hash((action, kind, namespace))):x}"
        (tmp_path / f"{name}.py").write_text(SOURCE.replace("ACTION", action.replace("\n", "\n        ")))
        entry = Entry(Component(kind, "Part", f"{name}:Part"), namespace, f"reidx-{namespace} 0.1" if namespace else "reidx 1")
        return seam.record_built(entry, entry.load()())

    yield make


def call_part(part: Any, kind: str = "loss", watched: bool = False, **given: Any) -> Any:
    given = given or {"scores": torch.ones(8, 3, requires_grad=True)}
    with seam.full_checks(watched):
        return seam.call(kind, part, "forward", part, **given)


RAISED = {
    "ValueError": "raise ValueError('kaputt')",
    "SystemExit 0": "raise SystemExit(0)",
    "SystemExit 3": "raise SystemExit(3)",
    "sys.exit": "import sys; sys.exit()",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "StopIteration": "raise StopIteration",
    "next": "next(iter([]))",
    "RecursionError": "return self.forward(scores)",
    "warning": "import warnings\nwith warnings.catch_warnings():\n    warnings.simplefilter('error'); warnings.warn('careful')",
    "CancelledError": "raise asyncio.CancelledError",
    "BrokenPipeError": "raise BrokenPipeError(32, 'gone')",
    "ConnectionResetError": "raise ConnectionResetError('peer')",
    "FileNotFoundError": "open('/nowhere/at all')",
    "AssertionError": "assert scores is None, 'no scores'",
    "in torch": "return scores @ scores",
    "unprintable": "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E",
    "huge": "raise ValueError('x' * 10_000_000)",
    "ANSI": "raise ValueError('\\x1b[31mred\\x1b[0m \\udcff\\0')",
    "BaseException": "raise type('Own', (BaseException,), {})('kaputt')",
}


@pytest.mark.parametrize("kind", KINDS)
def test_plugin_error_names_everything(made, kind):
    part = made("raise ValueError('kaputt')", kind)
    with pytest.raises(PluginError) as raised:
        call_part(part, kind)
    message = str(raised.value)
    file = sys.modules[type(part).__module__].__file__
    assert message.startswith(f"{kind} mine.Part (from reidx-mine 0.1) failed in forward: ValueError: kaputt ({file}:10).")
    assert f"{kind} is given {KINDS[kind].given} and returns {KINDS[kind].returns}; it was given scores float32 8x3." in message
    assert message.endswith("This is a bug in the plugin, not in its input: fix it there, or report it to its authors.")


@pytest.mark.parametrize("action", RAISED.values(), ids=RAISED)
def test_any_exception_becomes_one_message(made, action):
    with pytest.raises(PluginError) as raised:
        call_part(made(action))
    message = str(raised.value)
    assert "loss mine.Part (from reidx-mine 0.1) failed in forward: " in message and "A loss is given" in message
    assert re.search(r"parts_of_\w+\.py:1\d", message)
    assert len(message) < 1500 and message.isprintable()
    message.encode("utf-8")


@pytest.mark.parametrize("action", ["raise ValueError('kaputt')", "raise SystemExit(0)", "raise StopIteration"])
def test_core_error_is_no_plugin_error(made, action):
    with pytest.raises((ValueError, RuntimeError)) as raised:
        call_part(made(action, namespace=""))
    message = " ".join([str(raised.value), *getattr(raised.value, "__notes__", ())])
    assert "loss Part (from reidx 1)" in message and "scores float32 8x3" in message
    assert "bug in the plugin" not in message


def test_reidx_error_keeps_class_and_message(made):
    with pytest.raises(ConfigError, match="eps is odd") as raised:
        call_part(made("raise ConfigError('eps is odd')"))
    assert str(raised.value) == "eps is odd"
    assert "It was raised in loss mine.Part (from reidx-mine 0.1), forward (" in raised.value.__notes__[0]


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("raise MemoryError", MemoryError),
        ("raise RuntimeError('CUDA out of memory.')", RuntimeError),
        (f"raise OSError({errno.ENOSPC}, 'No space left on device')", OSError),
        ("raise RuntimeError('DataLoader worker (pid 3) is killed by signal')", RuntimeError),
        ("raise Terminated('asked to end')", Terminated),
    ],
)
def test_errors_of_the_machine_pass_through(made, action, kind):
    with pytest.raises(kind) as raised:
        call_part(made(action))
    assert type(raised.value) is kind


def test_ctrl_c_in_a_plugin_passes_through(made, listening):
    with pytest.raises(KeyboardInterrupt):
        call_part(made("os.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**7): pass"))


def test_reraised_ctrl_c_passes_through(made, listening):
    struck = "os.kill(os.getpid(), signal.SIGINT)\n    for _ in range(10**7): pass"
    action = f"try:\n    {struck}\nexcept KeyboardInterrupt:\n    raise"
    with pytest.raises(KeyboardInterrupt):
        call_part(made(action))


def test_exiting_signal_handler_is_no_plugin_error(made):
    def end(number: int, frame: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        with pytest.raises(SystemExit) as raised:
            call_part(made("os.kill(os.getpid(), signal.SIGUSR1)\nfor _ in range(10**7): pass"))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert raised.value.code == 143


def test_the_innermost_component_is_named(made):
    outer, inner = made("pass", "alignment"), made("raise ValueError('kaputt')", "memory")
    with pytest.raises(PluginError, match=r"^memory mine\.Part"):
        seam.call("alignment", outer, "forward", lambda scores: call_part(inner, "memory", scores=scores), torch.ones(2))


def test_component_without_config_is_only_called():
    with pytest.raises(ZeroDivisionError):
        seam.call("loss", object(), "forward", lambda: 1 / 0)


def test_constructor_that_fails(tmp_path, monkeypatch, register):
    class Exits:
        def __init__(self) -> None:
            raise SystemExit(0)

        def forward(self, scores): ...

    register("loss", Exits)
    with pytest.raises(RuntimeError, match=r"loss Exits \(from the test\) failed in its constructor: it exits the program"):
        build("loss", "Exits")


def test_words_for_values():
    assert describe_value(torch.zeros(2, 3, dtype=torch.bfloat16)) == "bfloat16 2x3"
    assert describe_value({"embed": torch.zeros(4)}) == "{embed: float32 4}"
    assert describe_value([1, 2]) == "list of 2"
    assert describe_value(None) == "None"
    assert describe_value(object()) == "object"
    assert one_line("a\n\tb\x1b[1mc\x1b[0m") == "a bc" and one_line("x" * 999, 5) == "xxxxx …"
    shy = type("Shy", (), {"__str__": lambda self: 1 / 0})
    assert one_line(shy()) == "(its message cannot be shown: str() raised ZeroDivisionError)"


# ---- promises


BROKEN = {
    "vector": ("loss", "return scores.sum(1)", "it returned float32 8, not a scalar"),
    "one element": ("loss", "return scores.sum().reshape(1)", "it returned float32 1, not a scalar"),
    "nothing": ("loss", "return None", "it returned None, not a scalar"),
    "an array": ("loss", "return scores.detach().sum().numpy()", "float32 scalar of numpy, no tensor, not a scalar"),
    "a float": ("loss", "return 3.0", "it returned 3.0, not a scalar"),
    "integer": ("loss", "return torch.tensor(3)", "int64"),
    "complex": ("loss", "return scores.sum() * (1 + 1j)", "complex64"),
    "double": ("loss", "return scores.double().sum()", "float64"),
    "no gradient": ("loss", "return scores.detach().sum()", "has no gradient"),
    "NaN": ("loss", "return scores.sum() * float('nan')", "NaN or infinite"),
    "another device": ("loss", "return torch.zeros((), device='meta', requires_grad=True)", "on meta, but was given"),
    "in place": ("loss", "scores.data.zero_()\nreturn scores.sum()", "it changed scores in place"),
    "gradients": ("loss", "torch.set_grad_enabled(False)\nreturn scores.sum()", "whether gradients are recorded"),
    "type": ("loss", "torch.set_default_dtype(torch.float64)\nreturn scores.sum()", "the default type of tensors"),
    "seed": ("loss", "torch.manual_seed(0)\nreturn scores.sum()", "the seed of torch's generator"),
    "empty mapping": ("alignment", "return {}", "no value at all"),
    "vector by name": ("alignment", "return {'a': scores.sum(1)}", "its a is float32 8, not a scalar"),
    "columns": ("memory", "return scores[:, :2]", "not scores of 8 images against 3 labels"),
    "rows": ("memory", "return scores[:4]", "not scores of 8 images"),
    "flat map": ("backbone", "return scores", "not a map of 8 images with 3 channels"),
    "plain dict": ("fusion", "return {'embed': scores}", "not Features"),
    "cut images": ("transform", "return scores[:, 1:]", "not images of the size"),
    "half the images": ("transform", "return scores[:4]", "not images of the size"),
}


@pytest.mark.parametrize(("kind", "action", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_promise_is_named(made, kind, action, message):
    from reidx.registry.promises import expect_columns

    part = made(action, kind)
    expect_columns(part, 3)
    torch.manual_seed(3)
    function = "batch" if kind == "transform" else "forward"
    with pytest.raises(PluginError) as raised, seam.full_checks():
        seam.call(kind, part, function, part, torch.ones(8, 3, requires_grad=True))
    assert f"{kind} mine.Part (from reidx-mine 0.1) violated its contract in {function}" in str(raised.value)
    assert message in str(raised.value)
    assert re.search(r"parts_of_\w+\.py:9\)", str(raised.value))
    assert torch.is_grad_enabled() and torch.get_default_dtype() is torch.float32


EACH_STEP = ("vector", "nothing", "an array", "a float", "integer", "columns", "flat map", "plain dict", "cut images")


@pytest.mark.parametrize("name", EACH_STEP)
def test_unusable_result_is_named_in_every_step(made, name):
    """Not only in an epoch's first batch: an unusable result in a later batch would break reidx's own code."""
    from reidx.registry.promises import expect_columns

    kind, action, message = BROKEN[name]
    part = made(action, kind)
    expect_columns(part, 3)
    function = "batch" if kind == "transform" else "forward"
    with pytest.raises(PluginError) as raised:
        seam.call(kind, part, function, part, torch.ones(8, 3, requires_grad=True))
    assert f"{kind} mine.Part (from reidx-mine 0.1) violated its contract in {function}" in str(raised.value)
    assert message in str(raised.value)


def test_kept_promise_changes_nothing(made):
    part = made("return (2 * scores).sum()")
    assert call_part(part, watched=True) == call_part(part) == 48


def test_core_is_not_blamed_for_numbers(made):
    part = made("return scores.sum() * float('nan')", namespace="")
    assert torch.isnan(call_part(part, watched=True))
