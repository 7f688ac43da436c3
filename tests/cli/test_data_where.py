"""`reidx data where`: pages, layouts, counts and base configs of published data sets."""

from __future__ import annotations

import pytest

from reidx.cli.main import main
from reidx.data.published import base_config, find_set, published_sets
from reidx.errors import ConfigError, DataError
from reidx.registry.build import build
from reidx.registry.discovery import registry


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["data", "where", *words]) == 0
    return capsys.readouterr().out


def test_list_has_every_published_set(capsys):
    out = shown(capsys)
    names = {known.component for known in published_sets()}
    assert {line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "} == names
    assert {"Market1501", "MSMT17", "SYSUMM01"} <= names and "CSV" not in names


@pytest.mark.parametrize("known", list(published_sets()), ids=lambda known: known.component)
def test_each_set_has_page_and_layout(capsys, known):
    assert known.facts.request.startswith("http") or known.facts.notice  # a withdrawn set has no page
    out = shown(capsys, known.component)
    assert known.facts.request in out and known.facts.layout in out
    base = base_config(known.component)
    assert base is not None and base[0].startswith("reidx::data/") and base[0] in out
    assert max(map(len, known.facts.layout.splitlines())) <= 80


@pytest.mark.parametrize("known", list(published_sets()), ids=lambda known: known.component)
def test_missing_set_points_to_where(tmp_path, known):
    spec = {**registry().find("dataset", known.component).component.example, "type": known.component, "root": str(tmp_path)}
    with pytest.raises(DataError, match=rf"`reidx data where {known.kind.name}` shows its layout") as error:
        build("dataset", spec)
    assert known.facts.request in str(error.value)


def test_counts_of_every_variant_are_shown(capsys):
    lines = shown(capsys, "MSMT17").splitlines()
    assert ["trainval", "train", "32,621", "1,041"] in [line.split() for line in lines]
    assert ["train", "train", "30,248", "1,041"] in [line.split() for line in lines]
    assert ["train", "–", "395"] in [line.split() for line in shown(capsys, "SYSUMM01").splitlines()]


def test_set_is_found_by_either_name(capsys):
    assert find_set("market-1501").component == find_set("MARKET1501").component == "Market1501"
    with pytest.raises(ConfigError, match=r"There is no published data set 'Market1502'\. Did you mean Market1501"):
        find_set("Market1502")


def test_plugin_gets_its_data_set_shown(fake_plugins):
    fake_plugins.add(
        "mine",
        "from reidx import Component, PluginInfo, hookimpl\n"
        "from reidx.data.datasets import Counts, Facts, MarketGrammar\n"
        "class Streets(MarketGrammar):\n"
        "    \"\"\"Streets, people in streets.\"\"\"\n"
        "    name = 'Streets'\n"
        "    facts = Facts('https://example.org/streets', 'streets/', {'': {'train': Counts(1234, 5)} })\n"
        "@hookimpl\n"
        "def reidx_plugin():\n"
        "    return PluginInfo(title='Mine', api=1)\n"
        "@hookimpl\n"
        "def reidx_components():\n"
        "    return [Component('dataset', 'Streets', '{module}:Streets', {'root': 'data'})]\n",
    )
    done = fake_plugins.run("data", "where", "mine.Streets")
    assert done.returncode == 0 and "https://example.org/streets" in done.stdout and "1,234" in done.stdout
