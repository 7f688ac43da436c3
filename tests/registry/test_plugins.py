"""Discovery: a broken plugin disables only itself, with a readable reason."""

from __future__ import annotations

import pytest

from reidx.errors import ConfigError, PluginError
from reidx.registry.discovery import check

INFO = """
from reidx import Component, PluginInfo, hookimpl

@hookimpl
def reidx_plugin():
    return PluginInfo(title="t", api=1)
"""


def with_components(expression: str) -> str:
    return f"{INFO}\n@hookimpl\ndef reidx_components():\n    return {expression}\n"


BROKEN = {
    "missing dependency": ("import torchfoo", "needs torchfoo, which is not installed"),
    "missing dependency in a hook": (
        INFO + "@hookimpl\ndef reidx_components():\n    import torchfoo.deep\n",
        "needs torchfoo, which is not installed",
    ),
    "newer API": (
        INFO.replace("api=1", "api=2"),
        "was written for plugin API 2, but this reidx has API 1: upgrade reidx",
    ),
    "newer API with a new hook": (
        INFO.replace("api=1", "api=2") + "@hookimpl\ndef reidx_dashboards():\n    return []\n",
        "was written for plugin API 2, but this reidx has API 1: upgrade reidx",
    ),
    "older API": (
        INFO.replace("api=1", "api=0"),
        "was written for plugin API 0, but this reidx has API 1: upgrade the plugin",
    ),
    "misspelt hook": (
        INFO + "@hookimpl\ndef reidx_componets():\n    return []\n",
        "there is no hook reidx_componets. Did you mean reidx_components?",
    ),
    "misspelt main hook": (
        INFO.replace("def reidx_plugin", "def reidx_plugn"),
        "there is no hook reidx_plugn. Did you mean reidx_plugin?",
    ),
    "unknown hook": (
        INFO + "@hookimpl\ndef unheard_of():\n    return []\n",
        "there is no hook unheard_of. The hooks are reidx_plugin, reidx_components, reidx_configs",
    ),
    "unmarked hook": (
        INFO + "def reidx_components():\n    return []\n",
        "the function reidx_components is not marked @reidx.hookimpl",
    ),
    "hook with an argument": (
        INFO + "@hookimpl\ndef reidx_components(registry):\n    return []\n",
        "Argument(s) {'registry'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "no hook": ("x = 1", "it has no hook reidx_plugin, which is required"),
    "SystemExit at import": (
        "import sys\nsys.exit(3)",
        "importing {module} exits the program (SystemExit: 3)",
    ),
    "error at import": (
        "\n1 / 0",
        "importing {module} failed: ZeroDivisionError: division by zero ({module}.py:2)",
    ),
    "syntax error": ("def f(:", "importing {module} failed: SyntaxError: invalid syntax"),
    "hook raising": (
        INFO + "@hookimpl\ndef reidx_components():\n    raise ValueError('two\\nlines')\n",
        "its hook reidx_components failed: ValueError: two lines ({module}.py:9)",
    ),
    "hook exiting": (
        INFO + "@hookimpl\ndef reidx_configs():\n    raise SystemExit('bye')\n",
        "its hook reidx_configs exits the program (SystemExit: bye)",
    ),
    "not a PluginInfo": (
        "from reidx import hookimpl\n@hookimpl\ndef reidx_plugin():\n    return {'title': 't'}\n",
        "reidx_plugin returned dict, not PluginInfo",
    ),
    "components in a dict": (
        with_components("{'a': 1}"),
        "reidx_components returned dict, not a list of Component",
    ),
    "not a Component": (with_components("['GSL']"), "reidx_components lists a str, not a Component"),
    "target without a colon": (
        with_components("[Component('loss', 'GSL', 'pkg.GSL')]"),
        "component GSL names 'pkg.GSL'; write it as 'module:Class'",
    ),
    "name with a namespace": (
        with_components("[Component('loss', 'other.GSL', 'pkg:GSL')]"),
        "component 'other.GSL' must be a plain name; reidx adds the namespace",
    ),
    "unknown kind": (
        with_components("[Component('los', 'GSL', 'pkg:GSL')]"),
        "is of unknown kind 'los'; the kinds are: dataset,",
    ),
    "component twice": (
        with_components("[Component('loss', 'GSL', 'pkg:GSL'), Component('loss', 'GSL', 'pkg:Other')]"),
        "loss ill.GSL is registered twice",
    ),
    "configs not a pair": (
        INFO + "@hookimpl\ndef reidx_configs():\n    return 'configs'\n",
        "reidx_configs returned 'configs', not (package, folder)",
    ),
}


@pytest.mark.parametrize("source, reason", BROKEN.values(), ids=BROKEN)
def test_broken_plugin_is_skipped_with_its_reason(fake_plugins, source, reason):
    fake_plugins.add("ill", source)
    fake_plugins.add("well")
    registry, found = fake_plugins.discover()
    reason = reason.replace("{module}", "fake_reidx_ill")
    assert reason in found["ill"][0].problem
    assert "\n" not in found["ill"][0].problem
    assert found["ill"][0].origin == "reidx-ill 0.1"
    assert not any(entry.namespace == "ill" for entry in registry.entries())
    with pytest.raises(ConfigError) as error:
        registry.find("loss", "ill.GSL")
    assert reason in str(error.value)
    # the healthy plugin and the core still work
    assert not found["well"][0].problem
    assert registry.find("loss", "well.Zero").load()().scale == 1.0
    assert registry.find("clusterer", "DBSCAN").distribution.startswith("reidx ")


def test_interrupt_while_importing_is_not_swallowed(fake_plugins, listening):
    fake_plugins.add("ill", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**7): pass")
    with pytest.raises(KeyboardInterrupt):
        fake_plugins.discover()


UNSAYABLE = {
    "str raises": "class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E",
    "str exits": "class E(Exception):\n    def __str__(self): raise SystemExit(0)\nraise E",
    "str returns a number": "class E(Exception):\n    def __str__(self): return 3\nraise E",
    "huge": "raise ValueError('x' * 10_000_000)",
    "surrogates": "raise ValueError('\\udcff \\ud800')",
    "escapes": "raise ValueError('\\x1b[31mred\\x1b]0;title\\x07 \\0 \\u202e')",
    "lines": "raise ValueError('one\\ntwo\\r\\nthree')",
    "interrupt": "raise KeyboardInterrupt",
    "exit": "raise SystemExit(0)",
    "generator": "raise GeneratorExit",
    "unprintable BaseException": "class E(BaseException):\n    __repr__ = __str__ = lambda self: 1 / 0\nraise E",
    "no name": "raise ModuleNotFoundError('x', name=3)",
    "title of None": INFO.replace('title="t"', "title=None"),
    "number as text": INFO.replace("api=1", "api='1'"),
}


@pytest.mark.parametrize("source", UNSAYABLE.values(), ids=UNSAYABLE)
def test_unprintable_exception_disables_only_its_plugin(fake_plugins, source):
    fake_plugins.add("ill", source)
    fake_plugins.add("well")
    registry, found = fake_plugins.discover()
    problem = found["ill"][0].problem
    assert problem
    assert problem.isprintable()
    assert len(problem) < 700
    problem.encode("utf-8")
    assert problem in registry.absent["ill"]
    assert not found["well"][0].problem


def test_unprintable_exception_of_a_component(fake_plugins):
    fake_plugins.add("late", with_components("[Component('loss', 'GSL', 'fake_odd:GSL')]"))
    (fake_plugins.folder / "fake_odd.py").write_text(UNSAYABLE["str raises"])
    registry, found = fake_plugins.discover()
    with pytest.raises(PluginError, match=r"loss late\.GSL .*cannot be imported: E: \(its message cannot be shown"):
        registry.find("loss", "late.GSL").load()
    assert len(check(found["late"][0])) == 1


def test_namespace_claimed_twice_is_used_by_neither(fake_plugins):
    fake_plugins.add("lf2")
    fake_plugins.add("lf2", distribution="other", version="0.3")
    fake_plugins.add("well")
    registry, found = fake_plugins.discover()
    reason = "two distributions claim the namespace lf2: other 0.3, reidx-lf2 0.1; uninstall all but one"
    assert [plugin.problem for plugin in found["lf2"]] == [reason, reason]
    assert registry.absent["lf2"] == reason
    assert {entry.namespace for entry in registry.entries()} >= {"", "well"}
    assert not any(entry.namespace == "lf2" for entry in registry.entries())


@pytest.mark.parametrize(
    "namespace, reason",
    [
        ("reidx", "the namespace reidx is reserved"),
        ("Bad.name", "the namespace 'Bad.name' must be lower-case"),
    ],
)
def test_forbidden_namespaces(fake_plugins, namespace, reason):
    fake_plugins.add(namespace, distribution="greedy")
    registry, found = fake_plugins.discover()
    assert reason in found[namespace][0].problem
    assert not any(entry.distribution == "greedy 0.1" for entry in registry.entries())


def test_entry_point_to_a_missing_module(fake_plugins):
    fake_plugins.add("ill")
    (fake_plugins.folder / "fake_reidx_ill.py").unlink()
    _, found = fake_plugins.discover()
    assert found["ill"][0].problem == "its module fake_reidx_ill does not exist; install the plugin again"


@pytest.mark.parametrize(
    "target, fault",
    [
        ("fake_nowhere:GSL", "No module named 'fake_nowhere'"),
        ("fake_reidx_late:GSL", "the module fake_reidx_late has no 'GSL'"),
    ],
)
def test_load_and_check_find_missing_target(fake_plugins, target, fault):
    fake_plugins.add("late", with_components(f"[Component('loss', 'GSL', {target!r})]"))
    registry, found = fake_plugins.discover()
    assert not found["late"][0].problem  # discovery loads no component
    with pytest.raises(PluginError) as error:
        registry.find("loss", "late.GSL").load()
    assert fault in str(error.value)
    assert "loss late.GSL (from reidx-late 0.1" in str(error.value)
    assert check(found["late"][0]) == [str(error.value)]


def test_exiting_component_module_is_its_error(fake_plugins):
    fake_plugins.add("late", with_components("[Component('loss', 'GSL', 'fake_exits:GSL')]"))
    (fake_plugins.folder / "fake_exits.py").write_text("raise SystemExit(1)")
    registry, _ = fake_plugins.discover()
    with pytest.raises(PluginError, match="cannot be imported: SystemExit: 1"):
        registry.find("loss", "late.GSL").load()


def test_check_finds_missing_configs(fake_plugins):
    fake_plugins.add("late", INFO + "@hookimpl\ndef reidx_configs():\n    return 'fake_reidx_late', 'configs'\n")
    _, found = fake_plugins.discover()
    (fault,) = check(found["late"][0])
    assert "no folder 'configs' in the package fake_reidx_late" in fault


def test_selection_reads_only_the_named_plugins(fake_plugins, monkeypatch):
    fake_plugins.add("ill", "import sys\nsys.modules['fake_trace'] = sys\n")
    fake_plugins.add("well")
    monkeypatch.setenv("REIDX_PLUGINS", "well")
    monkeypatch.setenv("REIDX_STRICT_PLUGINS", "1")  # an unselected plugin is no fault
    registry, found = fake_plugins.discover()
    import sys

    assert "fake_trace" not in sys.modules
    assert registry.find("loss", "well.Zero")
    with pytest.raises(ConfigError, match="'ill' is not in use: REIDX_PLUGINS leaves it out"):
        registry.find("loss", "ill.GSL")
    assert check(found["ill"][0]) == []

    monkeypatch.setenv("REIDX_PLUGINS", "")
    registry, _ = fake_plugins.discover()
    assert {entry.namespace for entry in registry.entries()} == {""}


def test_selection_of_a_missing_plugin(fake_plugins, monkeypatch):
    fake_plugins.add("well")
    monkeypatch.setenv("REIDX_PLUGINS", "well, wel")
    with pytest.raises(
        PluginError, match=r"REIDX_PLUGINS names wel, which is not installed\. Installed: .*well"
    ):
        fake_plugins.discover()


def test_strict_names_every_unusable_plugin(fake_plugins, monkeypatch):
    fake_plugins.add("ill", "import torchfoo")
    fake_plugins.add("worse", "1 / 0")
    fake_plugins.add("well")
    monkeypatch.setenv("REIDX_PLUGINS", "ill,worse,well")
    monkeypatch.setenv("REIDX_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError) as error:
        fake_plugins.discover()
    assert "ill (reidx-ill 0.1): needs torchfoo, which is not installed" in str(error.value)
    assert "worse (reidx-worse 0.1): importing fake_reidx_worse failed" in str(error.value)
    monkeypatch.setenv("REIDX_STRICT_PLUGINS", "0")
    fake_plugins.discover()


def test_registry_warns_once_per_process(fake_plugins):
    fake_plugins.add("ill", "import torchfoo")
    code = "from reidx.registry.discovery import plugins, registry; {}"
    line = "reidx: plugin ill (reidx-ill 0.1) is skipped: needs torchfoo, which is not installed\n"
    assert fake_plugins.run("-c", code.format("plugins()"), REIDX_PLUGINS="ill").stderr == ""
    assert fake_plugins.run("-c", code.format("registry(); registry()"), REIDX_PLUGINS="ill").stderr == line


def test_config_root_of_a_plugin(fake_plugins):
    package = fake_plugins.folder / "fake_pkg"
    (package / "configs").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('finding configs must not import the package')")
    fake_plugins.add("well", INFO + "@hookimpl\ndef reidx_configs():\n    return 'fake_pkg', 'configs'\n")
    fake_plugins.add("bare")
    fake_plugins.add("ill", "import torchfoo")
    code = (
        "from reidx.errors import ReidxError\nfrom reidx.registry.discovery import config_root\n"
        "for namespace in ('well', 'bare', 'ill', 'gone'):\n"
        "    try:\n        print(config_root(namespace))\n"
        "    except ReidxError as error:\n        print(error)\n"
    )
    well, bare, ill, gone = fake_plugins.run("-c", code).stdout.splitlines()
    assert well == str(package / "configs")
    assert bare == "The plugin bare (reidx-bare 0.1) brings no configs."
    assert "ill" in ill and "needs torchfoo" in ill
    assert "`pip install reidx-gone`" in gone


def test_hook_documentation_is_complete():
    """Every hook has a docstring and an annotation of its return value."""
    from reidx.registry.hookspecs import ReidxSpec

    hooks = {name: hook for name, hook in vars(ReidxSpec).items() if name.startswith("reidx_")}
    assert list(hooks) == ["reidx_plugin", "reidx_components", "reidx_configs"]
    for hook in hooks.values():
        assert hook.__doc__ and hook.__annotations__["return"]
