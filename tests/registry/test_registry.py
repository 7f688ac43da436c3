"""Registry: look-up, and the messages when nothing is found."""

from __future__ import annotations

import pytest

from reidx.errors import ConfigError, PluginError
from reidx.outline.source import find_spec, summary
from reidx.registry.build import fill_defaults
from reidx.registry.discovery import registry
from reidx.registry.registry import KINDS, Component, Entry, Registry


def entry(kind: str, name: str, namespace: str = "", target: str = "nowhere:Thing") -> Entry:
    return Entry(
        Component(kind, name, target), namespace, f"reidx-{namespace} 0.1" if namespace else "reidx 1"
    )


@pytest.fixture
def known() -> Registry:
    registry = Registry()
    for item in (
        entry("loss", "Triplet"),
        entry("loss", "GSL", "gp"),
        entry("loss", "Distil", "gp"),
        entry("memory", "Exemplar", "gp"),
        entry("dataset", "Market1501"),
        entry("protocol", "Market1501"),
    ):
        registry.add(item)
    return registry


def test_entries_are_sorted_with_core_first(known):
    assert [e.name for e in known.entries("loss")] == ["Triplet", "gp.Distil", "gp.GSL"]
    kinds = [e.kind for e in known.entries()]
    assert kinds == sorted(kinds, key=list(KINDS).index)
    assert [e.kind for e in known.with_name("Market1501")] == ["dataset", "protocol"]


@pytest.mark.parametrize(
    "kind, name, advice",
    [
        ("loss", "triplet", "Did you mean Triplet?"),
        ("loss", "Tripplet", "Did you mean Triplet?"),
        ("loss", "GSL", "Did you mean gp.GSL?"),
        ("loss", "gp.Gsl", "Did you mean gp.GSL?"),
        ("loss", "gp.Exemplar", "gp.Exemplar is a memory, not a loss."),
        ("loss", "lf2.Distil", "`pip install reidx-lf2` brings it"),
        ("loss", "global_patch.GSL", "`pip install reidx-global-patch` brings it"),
        ("loss", "qqqq", "Known: Triplet, gp.Distil, gp.GSL."),
        ("clusterer", "DBSCAN", "Known: none."),
        ("dataset", "Synthetic", "It is now synthetic.People, of the plugin synthetic. No plugin called 'syn"),
        ("los", "Triplet", "There is no kind 'los'. The kinds are: dataset,"),
    ],
)
def test_advice_for_an_unknown_name(known, kind, name, advice):
    with pytest.raises(ConfigError) as error:
        known.find(kind, name)
    assert advice in str(error.value)


def test_present_name_of_a_moved_component():
    with pytest.raises(ConfigError, match=r"called 'Synthetic'\. It is now synthetic\.People, of the plugin synthetic\.$"):
        registry().with_name("Synthetic")
    assert all(entry.kind == "dataset" for entry in registry().with_name("synthetic.People"))


def test_advice_across_kinds(known):
    with pytest.raises(ConfigError, match=r"Did you mean gp\.Exemplar"):
        known.with_name("Exemplar")


def test_absent_plugin_is_explained(known):
    known.absent["lf2"] = "needs torchfoo, which is not installed"
    with pytest.raises(ConfigError, match=r"'lf2' is not in use: needs torchfoo, which is not installed\."):
        known.find("loss", "lf2.Distil")


def test_repeated_name_and_unknown_kind_are_refused(known):
    with pytest.raises(PluginError, match="registered twice: by reidx 1 and by reidx 1"):
        known.add(entry("loss", "Triplet"))
    with pytest.raises(PluginError, match="unknown kind 'los'"):
        known.add(entry("los", "Other"))


CORE = [e for e in registry().entries() if not e.namespace]


@pytest.mark.parametrize("core", CORE, ids=[f"{e.kind}-{e.name}" for e in CORE])
def test_core_component_loads_with_docstring_and_example(core):
    component = core.load()
    assert (component.__doc__ or "").strip(), "no docstring"
    assert summary(core.component.target) == component.__doc__.strip().partition("\n")[0]
    spec = {"type": core.name, **core.component.example}
    assert fill_defaults(core.kind, spec, KINDS[core.kind].context).items() >= spec.items()


def test_summary_is_read_without_importing(tmp_path, monkeypatch):
    package = tmp_path / "fake_docs"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError\nfrom .inner import Other as Renamed\n")
    (package / "inner.py").write_text(
        'class Other:\n    """First line.\n\n    More.\n    """\nclass Bare: ...\n'
    )
    (package / "loop.py").write_text("from fake_docs.loop import Self\n")
    (package / "broken.py").write_text("class (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert summary("fake_docs.inner:Other") == "First line."
    assert summary("fake_docs:Renamed") == "First line."
    for nothing in (
        "inner:Bare",
        "inner:Gone",
        "gone:Other",
        "loop:Self",
        "broken:Other",
        "inner.deep:Other",
    ):
        assert summary(f"fake_docs.{nothing}") == ""
    assert find_spec("fake_docs.inner").origin == str(package / "inner.py")
    assert find_spec("fake_gone.inner") is None
