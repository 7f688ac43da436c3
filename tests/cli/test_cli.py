"""The command line: output of each command, form of the errors, no heavy imports."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import reidx
from reidx.cli.main import COMMANDS, main, parser_of
from reidx.cli.parser import whole_number
from reidx.config.parts import places
from reidx.config.schema import Term
from reidx.errors import ConfigError
from reidx.outline.source import summary
from reidx.registry.discovery import registry, registry_override
from reidx.registry.registry import KINDS, Registry


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def imported(fake_plugins, *words: str) -> set[str]:
    """Return the top-level modules in a process after a command."""
    code = (
        f"import sys\nfrom reidx.cli.main import main\ntry:\n    main({list(words)!r})\n"
        "except SystemExit:\n    pass\n"  # raised by argparse after --help
        "print('', *{name.partition('.')[0] for name in sys.modules}, sep='\\n')\n"
    )
    return set(fake_plugins.run("-c", code).stdout.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["list"], ["list", "loss"], ["plugins"], ["recipes"], ["train", "--help"]])
def test_cheap_commands_import_nothing_heavy(fake_plugins, words):
    fake_plugins.add("well")
    modules = imported(fake_plugins, *words)
    assert "reidx" in modules
    assert not modules & {
        "torch",
        "torchvision",
        "timm",
        "mmengine",
        "numpy",
        "numba",
        "scipy",
        "sklearn",
        "PIL",
        "shtab",
    }


def test_help_lists_commands_without_complaints(fake_plugins):
    fake_plugins.add("ill", "import torchfoo")
    done = fake_plugins.run("--help")
    assert done.returncode == 0
    assert done.stderr == ""  # no complaints about plugins in the help
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_and_explains_each_option(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    if name:
        text = parser_of(name).format_help()
        assert all(action.help for action in parser_of(name)._actions)
    else:
        text = output(capsys, "--help")[1]
    assert text.startswith("usage: reidx") and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module(name):
    module = importlib.import_module(f"reidx.cli.{name.replace('-', '_')}")
    assert module.__doc__
    assert module.add_arguments
    assert module.run


def test_no_command_prints_the_help_and_fails(capsys):
    code, out, _ = output(capsys)
    assert code == 2 and "commands:" in out


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"reidx {reidx.__version__}\n"


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line that reports a mistake in the command line."""
    with pytest.raises(SystemExit) as exit:
        main(words)
    line = capsys.readouterr().err
    assert exit.value.code == 2
    assert line.count("\n") == 1
    assert len(line) < 600
    return line


@pytest.mark.parametrize(
    "given", ["9" * 20_000, "-" + "9" * 20_000, "-1", "1e3", "1.0", "1_000", "\u0663", "", "x\ny", str(2**64)]
)
@pytest.mark.parametrize("option", ["demo --seed", "demo --threads", "train a.yaml --threads", "ablate a.yaml --workers"])
def test_non_integer_is_refused_in_one_line(capsys, option, given):
    *words, name = option.split()
    line = refused(capsys, *words, f"{name}={given}")
    assert f"reidx {words[0]}: error: argument {name}: {given[:20]!r}"[:-1] in line or given == "x\ny"
    assert "is not an integer from" in line


def test_demo_seed_has_the_range_of_configs(capsys):
    assert "from 0 to 4294967295" in refused(capsys, "demo", "--seed", str(2**32))
    assert whole_number(0, 2**32 - 1)("+" + "0" * 5_000 + "7") == 7


@pytest.mark.parametrize("words", [["--" + "x" * 20_000], ["demo", "x" * 20_000], ["demo", "--progress", "x\n" * 9_000]])
def test_mistake_in_the_command_line_is_one_line(capsys, words):
    assert "(see `" in refused(capsys, *words)


def test_unknown_option_has_a_hint(capsys):
    assert "unrecognized arguments: --chek. Did you mean --check? (see" in refused(capsys, "plugins", "--chek")
    line = refused(capsys, "train", "a.yaml", "--epochs", "3")
    assert "--epochs 3. Change a value of the config with --set KEY=VALUE (see" in line


def test_unknown_command(capsys):
    assert output(capsys, "trian") == (2, "", "error: There is no command 'trian'. Did you mean train?\n")


# --- list, show, plugins


def test_list_groups_components_by_kind(fake_plugins):
    fake_plugins.add("well")
    done = fake_plugins.run("list", REIDX_PLUGINS="well")
    assert done.returncode == 0 and done.stderr == ""
    groups = {group.splitlines()[0]: group.splitlines()[1:] for group in done.stdout.strip().split("\n\n")}
    assert [kind for kind in groups if kind in KINDS] == [kind for kind in KINDS if kind in groups]
    assert groups["loss"][-1].split() == ["well.Zero", "Nothing,", "scaled."]
    assert next(line for line in groups["clusterer"] if line.split()[0] == "DBSCAN").endswith("needs an eps.")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_list_fits_the_width_without_cuts(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    out = output(capsys, "list")[1]
    assert all(len(line) <= width and line == line.rstrip() for line in out.splitlines())
    assert "\x1b" not in out and "…" not in out
    for entry in registry().entries():
        assert f"  {entry.name}" in out
        assert not summary(entry.component.target) or summary(entry.component.target).split()[-1] in out


def test_components_are_described_by_short_sentences():
    for entry in registry().entries():
        sentence = summary(entry.component.target)
        assert 20 < len(sentence) <= 70 and sentence.endswith("."), f"{entry.kind} {entry.name}: {sentence}"


def test_list_of_a_kind(capsys):
    code, out, _ = output(capsys, "list", "loss")
    assert code == 0
    assert [line for line in out.splitlines() if line in KINDS] == ["loss"]
    code, _, err = output(capsys, "list", "losses")
    assert code == 1 and "There is no kind 'losses'. Did you mean loss?" in err
    assert "The kinds are: dataset," in output(capsys, "list", "people")[2]
    with registry_override(Registry()):
        code, out, _ = output(capsys, "list", "alignment")
    assert (code, out) == (
        0,
        "No alignment is installed (takes source and target features; returns a scalar, or several by name; "
        "may own parameters).\n",
    )


def test_show_prints_keys_contract_origin_and_example(capsys):
    code, out, _ = output(capsys, "show", "GlobalPool")
    assert code == 0
    assert f"reidx.fusions.global_pool:GlobalPool, from reidx {reidx.__version__}" in out
    keys = {line.split()[0]: line.split()[1:] for line in out.partition("\nkeys\n")[2].splitlines() if line}
    assert keys["in_channels"] == ["(supplied)", "int"]
    assert keys["pool"] == ["'gem'", "str"]
    assert "provides: embed, global" in out
    assert yaml.safe_load(out.partition("\nexample\n")[2]) == {"model": {"fusion": {"type": "GlobalPool"}}}


def test_show_prints_slot_keys_and_valid_example(capsys):
    out = output(capsys, "show", "CrossEntropy")[1]
    wiring = out.partition("\nother keys of its slot, next to loss\n")[2].partition("\ncontract\n")[0]
    assert {line.split()[0] for line in wiring.splitlines()[1:] if line} == {field.name for field in fields(Term)} - {"loss"}
    assert "\ngets by name: scores, targets\ngets by name, if available: soft_targets, weights\n" in out
    assert yaml.safe_load(out.partition("\nexample\n")[2]) == {"objective": [{"loss": {"type": "CrossEntropy"}}]}
    out = output(capsys, "show", "LinearClassifier")[1]
    assert yaml.safe_load(out.partition("\nexample\n")[2]) == {
        "memories": {"NAME": {"memory": {"type": "LinearClassifier"}}}
    }
    assert "``" not in out and ":class:" not in output(capsys, "show", "PK")[1]


def test_every_kind_has_its_place_in_an_experiment():
    assert set(places()) == set(KINDS) - {"weights"}  # chosen by the tensors of a file


def test_show_of_a_plugin_names_paper_and_licence(fake_plugins):
    fake_plugins.add("well")
    done = fake_plugins.run("show", "well.Zero")
    assert done.returncode == 0, done.stderr
    for line in (
        "loss well.Zero",
        "fake_reidx_well:Zero, from reidx-well 0.1",
        "paper: Doe, Health, 2020",
        "licence: MIT",
        "Nothing, scaled.",
        "scale  1.0      float",
        "- loss:",
        "    type: well.Zero",
        "    scale: 2.0",
    ):
        assert line in done.stdout.splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_show_fills_paragraphs_to_the_width(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("Timm", "spcl.SelfPaced", "lf2.FusionModule"):
        lines = output(capsys, "show", name)[1].splitlines()
        assert max(map(len, lines)) <= width, name
    assert "    pretrained: load timm's weights" in output(capsys, "show", "Timm")[1]


def test_show_suggests_no_distant_name(capsys):
    said = "error: There is no component called 'nope'. `reidx list` names all components.\n"
    assert output(capsys, "show", "nope") == (1, "", said)


def test_show_of_a_shared_name(capsys):
    assert output(capsys, "show", "Market1501")[1].count("Market1501, from reidx") == 2
    code, out, _ = output(capsys, "show", "Market1501", "--kind", "protocol")
    assert code == 0
    assert "protocol Market1501" in out
    assert "dataset Market1501" not in out


def test_show_of_an_unknown_name(capsys):
    code, out, err = output(capsys, "show", "dbscan")
    assert (code, out) == (1, "")
    assert err == "error: There is no component called 'dbscan'. Did you mean DBSCAN?\n"


def test_plugins_reports_each_fault_once(fake_plugins):
    fake_plugins.add("well")
    fake_plugins.add("ill", "import torchfoo")
    fake_plugins.add("out")
    done = fake_plugins.run("plugins", REIDX_PLUGINS="ill,well")
    assert done.returncode == 0 and done.stderr == ""
    rows = {line.split()[0]: " ".join(line.split()) for line in done.stdout.splitlines()}
    assert "reidx-well 0.1 A plugin in good health (1 component)" in rows["well"]
    assert "NOT IN USE: needs torchfoo, which is not installed" in rows["ill"]
    assert "NOT IN USE: REIDX_PLUGINS leaves it out" in rows["out"]


def test_plugins_check_loads_declared_components(fake_plugins):
    fake_plugins.add("late", "__import__('fake_gone')")
    done = fake_plugins.run("plugins", "--check", REIDX_PLUGINS="late")
    assert done.returncode == 1
    assert "\nlate: needs fake_gone, which is not installed\n" in done.stdout


def test_closed_reader_is_no_error(fake_plugins):
    code = (
        "import subprocess, sys\n"
        "writer = subprocess.Popen([sys.executable, '-m', 'reidx', 'list'], stdout=-1, stderr=-1)\n"
        "writer.stdout.close()\n"
        "print(writer.stderr.read(), writer.wait())\n"
    )
    assert fake_plugins.run("-c", code, REIDX_PLUGINS="").stdout == "b'' 0\n"


# --- commands about an experiment: arguments for the engine


class Config:
    hash = "abc"

    def render(self, origins: bool, changed: bool) -> str:
        return ("a: 1  # demo.yaml:3\n" if origins else "a: 1\n") + ("" if changed else "b: 2\n")


class Result:
    work_dir = "runs/a"
    labels_file = None

    def table(self) -> str:
        return "mAP 50.0"


@pytest.fixture
def calls(monkeypatch):
    """Calls of load_config, run and test, which are replaced by stubs."""
    seen: dict[str, tuple] = {}

    def load_config(path, overrides=()):
        seen["load_config"] = (path, list(overrides))
        return Config()

    def run(config, **keywords):
        seen["run"] = (type(config), keywords)
        return Result()

    def test(config, **keywords):
        seen["test"] = (type(config), keywords)
        return Result()

    monkeypatch.setitem(reidx.__dict__, "load_config", load_config)
    monkeypatch.setitem(reidx.__dict__, "run", run)
    engine = types.ModuleType("reidx.engine.experiment")
    engine.test = test
    monkeypatch.setitem(sys.modules, "reidx.engine.experiment", engine)
    monkeypatch.setattr("reidx.engine.experiment", engine, raising=False)
    return seen


def test_train(capsys, calls, tmp_path):
    words = [
        "train",
        "a.yaml",
        "--set",
        "a.b=1",
        "c=[2]",
        "--set",
        "d=e",
        "--work-dir",
        str(tmp_path),
        "--resume",
    ]
    said = "mAP 50.0\n\nConfig, checkpoints, log, card: runs/a\n"
    assert output(capsys, *words, "--progress", "quiet") == (0, said, "")
    assert calls["load_config"] == ("a.yaml", ["a.b=1", "c=[2]", "d=e"])
    given = {"work_dir": tmp_path, "resume": True, "progress": "quiet", "share": None, "threads": "auto", "images": False}
    assert calls["run"] == (Config, given)
    output(capsys, "train", "a.yaml", "--images")
    assert calls["run"][1]["images"] is True


def test_test(capsys, calls, tmp_path):
    assert output(capsys, "test", "a.yaml", "--weights", str(tmp_path / "w.pth"))[:2] == (0, "mAP 50.0\n")
    given = {"weights": tmp_path / "w.pth", "progress": None, "threads": "auto", "rerank": False, "share": None}
    assert calls["test"] == (Config, given)
    output(capsys, "test", "a.yaml", "--progress", "plain", "--threads", "3", "--rerank", "--share", str(tmp_path))
    given = {"weights": None, "progress": "plain", "threads": 3, "rerank": True, "share": tmp_path}
    assert calls["test"] == (Config, given)


def test_config(capsys, calls):
    assert output(capsys, "config", "a.yaml")[1] == "# hash abc\na: 1  # demo.yaml:3\nb: 2\n"
    assert output(capsys, "config", "a.yaml", "--no-origins")[1] == "# hash abc\na: 1\nb: 2\n"
    assert output(capsys, "config", "a.yaml", "--changed")[1] == "# hash abc\na: 1  # demo.yaml:3\n"


# --- errors


def fails_with(monkeypatch, error: BaseException) -> None:
    def load_config(*_):
        raise error

    monkeypatch.setitem(reidx.__dict__, "load_config", load_config)


def test_mistake_is_one_message_and_exit_code_1(capsys, monkeypatch):
    fails_with(monkeypatch, ConfigError("a.yaml:3: no such key."))
    assert output(capsys, "config", "a.yaml") == (1, "", "error: a.yaml:3: no such key.\n")


def test_system_error_names_the_file(capsys, monkeypatch):
    fails_with(monkeypatch, OSError(28, "No space left on device", "runs/x.pth"))
    code, _, err = output(capsys, "config", "a.yaml")
    assert (code, err) == (1, "error: [Errno 28] No space left on device: 'runs/x.pth'\n")


@pytest.mark.parametrize("words", [["--debug", "config", "a.yaml"], ["config", "a.yaml", "--debug"]])
def test_debug_shows_the_traceback(capsys, monkeypatch, words):
    fails_with(monkeypatch, ConfigError("wrong."))
    code, _, err = output(capsys, *words)
    assert code == 1
    assert err.startswith("Traceback") and err.endswith("\nerror: wrong.\n")


def test_bug_is_reported_with_its_traceback(capsys, monkeypatch):
    fails_with(monkeypatch, KeyError("x"))
    code, _, err = output(capsys, "config", "a.yaml")
    assert code == 1
    trace, _, message = err.partition("\nerror: ")
    assert trace.startswith("Traceback (most recent call last)") and trace.endswith("KeyError: 'x'")
    assert message.startswith("unexpected KeyError: 'x' (")
    assert message.endswith(" This is a bug in reidx, not in its input.\n")
    assert message.count("\n") == 1


def test_interrupt_prints_the_resume_command(capsys, monkeypatch):
    fails_with(monkeypatch, KeyboardInterrupt())
    code, _, err = output(capsys, "train", "my exp.yaml", "--set", "a=1")
    assert code == 130
    assert err.endswith("resume from the last checkpoint with: reidx train 'my exp.yaml' --set a=1 --resume\n")
    assert output(capsys, "train", "a.yaml", "--resume")[2].endswith("reidx train a.yaml --resume\n")
    assert output(capsys, "config", "a.yaml")[2] == "\ninterrupted\n"


def test_interrupted_demo_resumes_by_itself(capsys, monkeypatch):
    fails_with(monkeypatch, KeyboardInterrupt())
    assert output(capsys, "demo", "--seed", "2")[2].endswith("reidx demo --seed 2\n")


def test_missing_library_of_opencv_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cv2").mkdir()
    cause = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2/__init__.py").write_text(f"raise ImportError({cause!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    monkeypatch.setattr(importlib.import_module("reidx.cli.list"), "run", lambda arguments: importlib.import_module("cv2"))
    code, out, err = output(capsys, "list")
    assert code == 1 and out == "" and err.startswith("error: OpenCV needs libGL.so.1, which this machine lacks. ")
    assert err.count("\n") == 1 and "opencv-python-headless" in err
    (tmp_path / "cv2/__init__.py").write_text("raise ImportError('cannot import name x')")
    assert "This is a bug in reidx" in output(capsys, "list")[2]
