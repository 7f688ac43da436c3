"""Generators of Markdown from code and data: config keys, components, commands, tables of results.

A page has a comment ``<!-- generated: NAME -->`` or ``<!-- generated: NAME ARGUMENT -->`` on a separate line. :func:`fill`
replaces it with the text of the generator NAME when Sphinx reads the page. ``python docs/generate.py NAME [ARGUMENT]`` prints
the text of one generator.
"""

from __future__ import annotations

import argparse
import ast
import csv
import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reidx.cli.main import COMMANDS, parser_of
from reidx.cli.show import contract_lines, example_of
from reidx.config import schema
from reidx.config.sections import key_of
from reidx.registry.build import signature_of
from reidx.registry.discovery import plugins, registry
from reidx.registry.library import library
from reidx.registry.registry import KINDS, Entry
from reidx.testing.miniatures import MINIATURES

ROOT = Path(__file__).parents[1]
DATA = ROOT / "docs/data"
PLACE = re.compile(r"^<!-- generated: ([\w-]+)(?: ([\w-]+))? -->$", re.MULTILINE)


def fill(text: str) -> str:
    """Return a page with its generated parts filled in. Raises KeyError for an unknown generator."""
    return PLACE.sub(lambda found: GENERATORS[found[1]](*filter(None, [found[2]])), text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def markdown(docstring: str) -> str:
    """Return a docstring with its code spans and roles as Markdown."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", inspect.cleandoc(docstring)).replace("``", "`")
    spans = re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.MULTILINE)  # leave code unchanged
    return "".join(span if number % 2 else re.sub(r"([<_])", r"\\\1", span) for number, span in enumerate(spans))


# ---- the keys of a config


def keys() -> str:
    """Return a section for each dataclass of the schema: its keys with type, default and meaning."""
    below = _docstrings_below_fields(Path(schema.__file__))
    sections = []
    for place, cls in {"The top level": schema.Experiment, **dict(_sections(schema.Experiment))}.items():
        rows = []
        for field, hint in _fields(cls):
            meaning = below.get((cls.__name__, field.name)) or _summary(field, _section_of(hint))
            rows.append((f"`{key_of(field)}`", _type(field, hint), _default(field), " ".join(markdown(meaning).split())))
        title = place if cls is schema.Experiment else f"`{place}`"
        sections.append(f"## {title}\n\n{markdown(cls.__doc__ or '')}\n\n{table(('key', 'type', 'default', 'meaning'), rows)}")
    return "\n".join(sections)


def _fields(cls: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def _summary(field: dataclasses.Field[Any], section: type | None) -> str:
    """Return the meaning of a field without a docstring: the first line of its section's, or the result of its kind."""
    if section is not None:
        return (section.__doc__ or "").partition("\n")[0]
    kind = KINDS.get(field.metadata.get("kind", ""))
    return "" if kind is None else f"Gives {kind.returns}."


def _section_of(hint: Any) -> type | None:
    """Return the dataclass of the schema that a field holds, directly or in a list or a mapping."""
    return next((one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)), None)


def _sections(cls: type, place: str = "") -> Iterator[tuple[str, type]]:
    """Yield the dataclasses within a dataclass, each with its place in a config."""
    for field, hint in _fields(cls):
        inner = _section_of(hint)
        if inner is not None:
            within = {"Stage": "stages.STAGE", "Labelling": "labels.labellings.NAME"}.get(inner.__name__)
            suffix = {dict: ".NAME", list: ".N"}.get(typing.get_origin(hint), "")
            here = within or f"{place}{field.name}{suffix}"
            yield here, inner
            yield from _sections(inner, "" if inner is schema.Stage else f"{here}.")


def _docstrings_below_fields(source: Path) -> dict[tuple[str, str], str]:
    """Return the docstrings below the fields of a module's classes, by class and field."""
    found = {}
    classes = [node for node in ast.parse(source.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    for cls in classes:
        for one, below in zip(cls.body, cls.body[1:]):
            match one, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[cls.name, name] = text
    return found


def _type(field: dataclasses.Field[Any], hint: Any) -> str:
    kind = field.metadata.get("kind") or field.metadata.get("catalogue")
    if kind is not None:
        page = f"[{kind}](components.md#{kind})" if kind in KINDS else kind
        several = "container" in field.metadata or "catalogue" in field.metadata
        many = {dict: "mapping of names, each with a {}", list: "list, each a {}"}[typing.get_origin(hint)] if several else "{}"
        return many.format(page) + (" or null" if field.metadata.get("optional") else "")
    if float in typing.get_args(hint) and _section_of(hint) is not None:
        return "`float` or mapping"
    if _section_of(hint) is not None:
        return {dict: "mapping of names", list: "list"}.get(typing.get_origin(hint), "mapping")
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(f"`{yaml_text(value)}`" for value in typing.get_args(hint))
    least, most = field.metadata.get("least"), field.metadata.get("most")
    limits = "" if least is None else f", at least {least}" if most is None else f", {least} to {most:,}"
    return f"`{_plain(str(field.type))}`" + limits


def _plain(annotation: str) -> str:
    """Return an annotation in a config's terms: null for None, and a choice as its values."""
    chosen = re.sub(r"Literal\[([^]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " | "), annotation)
    return chosen.replace("None", "null")


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{yaml_text(field.default)}`"
    if field.default_factory is dataclasses.MISSING:
        return "required"
    made = field.default_factory
    return "its own defaults" if dataclasses.is_dataclass(made) else f"`{yaml_text(made())}`"


def yaml_text(value: Any) -> str:
    """Return a value as YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=10_000).removesuffix("\n...\n").strip()


# ---- the components


def components(kind: str) -> str:
    """Return the installed components of a kind: first line, arguments with defaults, contract, example."""
    text = [f"A {kind} receives {KINDS[kind].given}; it returns {KINDS[kind].returns}.\n"]
    if library(kind):
        text.append(f"Of libraries: {', '.join(f'`{name}`' for name in library(kind))}.\n")
    return "\n".join([*text, *(_component(entry) for entry in registry().entries(kind))])


def all_components() -> str:
    """Return all kinds, each with its components."""
    return "\n".join(f"## {kind.capitalize()}\n\n{components(kind)}" for kind in KINDS)


def _component(entry: Entry) -> str:
    cls = entry.load()
    summary, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
    rows = []
    for argument in signature_of(entry).values():
        if argument.name not in KINDS[entry.kind].context:
            default = "required" if argument.required else f"`{yaml_text(argument.default)}`"
            rows.append((f"`{argument.name}`", f"`{_plain(argument.annotation)}`", default))
    parts = [f"### {entry.name}\n", markdown(summary) + "\n"]
    parts += [table(("argument", "type", "default"), rows)] if rows else ["No arguments.\n"]
    parts += [f"* {markdown(line)}" for line in contract_lines(entry, cls)]
    example = yaml.safe_dump(example_of(entry), sort_keys=False, width=100, allow_unicode=True)
    parts.append(f"\n```yaml\n{example}```\n\n{markdown(rest)}\n\nFrom {entry.distribution}: `{entry.component.target}`.\n")
    return "\n".join(parts)


# ---- the command line


def commands() -> str:
    """Return all commands, each with its description, usage and arguments."""
    text = []
    for parser in (parser for name in COMMANDS for parser in _with_commands_below(parser_of(name))):
        usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
        level = "#" * parser.prog.count(" ")
        text.append(f"#{level} {parser.prog}\n\n{markdown(parser.description or '')}\n\n```text\n{usage}\n```\n")
        rows = [(_spelling(action), _meaning(action)) for action in parser._actions if action.help != argparse.SUPPRESS]
        text.append(table(("argument", "meaning"), rows))
    return "\n".join(text)


def _with_commands_below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _with_commands_below(below)


def _spelling(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{option}`" for option in action.option_strings) + ("" if action.nargs == 0 else f" `{value}`")


def _meaning(action: argparse.Action) -> str:
    return markdown((action.help or "") % {**vars(action), "prog": "reidx"})


# ---- data sets

TESTS: Mapping[str, Sequence[str]] = {
    "test_market_family.py": ("Market1501", "DukeMTMC", "PersonX", "VeRi776"),
    "test_msmt17.py": ("MSMT17",),
    "test_cuhk03.py": ("CUHK03",),
    "test_mlr_cuhk03.py": ("MLRCUHK03",),
    "test_visible_infrared.py": ("SYSUMM01", "RegDB"),
    "test_cloth_changing.py": ("LTCC", "PRCC"),
    "test_occluded_duke.py": ("OccludedDuke",),
    "test_partial.py": ("PartialREID", "PartialILIDS", "OccludedREID"),
    "test_single_shot.py": ("VIPeR", "GRID", "PRID2011"),
    "test_tracks.py": ("MARS",),
    "test_vehicles.py": ("VehicleID", "VERIWild"),
    "test_image_folder.py": ("ImageFolder",),
    "test_tables.py": ("CSV", "Parquet"),
    "test_composed.py": ("Union", "Subset"),
    "test_camera_split.py": ("CameraSplit",),
}
"""The components of data sets that each module in ``tests/data`` tests."""


def data_sets() -> str:
    """Return a row for each miniature: the component, its layouts, the protocols, the counts of the splits, the test."""
    kinds = {entry.name: entry for entry in registry().entries("dataset")}
    test_of = {name: test for test, names in TESTS.items() for name in names}
    rows = []
    for miniature in MINIATURES:
        name, kind = miniature.spec["type"], kinds[miniature.spec["type"]].load()
        layouts = [f"{layout}: {_names(parts)}" if layout else _names(parts) for layout, parts in kind.layouts.items()]
        counts = ["/".join(map(str, miniature.counts[split])) for split in ("train", "query", "gallery")]
        protocols = [_spec(spec) for spec in miniature.protocols]
        rows.append([miniature.name, _spec(miniature.spec), "; ".join(layouts), ", ".join(protocols), *counts, test_of[name]])
    drawn = {miniature.spec["type"] for miniature in MINIATURES}
    for name, test in test_of.items():
        if name not in drawn:  # made of a table, or of other data sets
            rows.append([kinds[name].load().__doc__.partition(".")[0], f"`{name}`", *[""] * 5, test])
    head = ("data set", "component", "layouts", "protocols", "train", "query", "gallery", "test")
    return table(head, [[*row[:-1], f"`tests/data/{row[-1]}`"] for row in rows])


def _names(parts: Sequence[str]) -> str:
    return ", ".join(f"`{part}`" for part in parts)


def _spec(spec: Mapping[str, Any]) -> str:
    """Return a component as in a config: its name, then its arguments."""
    arguments = ", ".join(f"{key}: {yaml_text(value)}" for key, value in spec.items() if key != "type")
    return f"`{spec['type']}`" + (f" (`{arguments}`)" if arguments else "")


# ---- methods and results


def methods() -> str:
    """Return the table of installed plugins, from their PluginInfo."""
    rows = []
    for plugin in plugins():
        if plugin.namespace and plugin.info is not None:
            parts = ", ".join(f"[{entry.name}](components.md#{_anchor(entry.name)})" for entry in plugin.entries)
            rows.append((f"[{plugin.distribution}](methods/{plugin.namespace}.md)", plugin.info.paper, parts))
    return table(("plugin", "paper", "components"), rows)


def readme(plugin: str) -> str:
    """Return the README of a plugin of this repository; links to files that are not pages become plain text."""
    text = (ROOT / "plugins" / plugin / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\[([^]]*)\]\((?!https?:)[^)#]+\)", r"\1", text)


def _anchor(heading: str) -> str:
    """Return the anchor that MyST gives to a heading."""
    return re.sub(r"[^\w-]", "", heading.lower())


def results(group: str) -> str:
    """Return the measured results of a group of rows in ``data/results.csv``, in percent, of the last epoch."""
    rows = [row for row in read("results.csv") if row["group"] == group]
    if not rows:
        raise KeyError(f"data/results.csv has no group {group!r}")
    head = {
        "method": "method", "recipe": "recipe", "mAP": "mAP", "rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10",
        "mINP": "mINP", "first_stage": "first stage (mAP / rank-1)", "passes": "image passes", "seeds": "seeds",
        "epoch": "epoch", "minutes": "minutes", "machine": "machine",
    }  # fmt: skip
    shown = {key: title for key, title in head.items() if any(row[key] for row in rows)}
    return table(list(shown.values()), [[_cell(key, row[key]) for key in shown] for row in rows])


def reported() -> str:
    """Return the numbers reported by the authors, from ``data/reported.csv``."""
    head = ("method", "plugin", "data", "network", "mAP", "rank1", "source")
    rows = [[_cell(key, row[key]) for key in head] for row in read("reported.csv")]
    return table([name.replace("rank1", "rank-1") for name in head], rows)


def read(name: str) -> list[dict[str, str]]:
    """Return the rows of a table in ``docs/data``."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _cell(key: str, text: str) -> str:
    return f"`{text}`" if key in ("recipe", "plugin") and text else text or "–"


GENERATORS: Mapping[str, Callable[..., str]] = {
    "keys": keys,
    "components": all_components,
    "commands": commands,
    "methods": methods,
    "readme": readme,
    "data-sets": data_sets,
    "results": results,
    "reported": reported,
}

if __name__ == "__main__":
    print(GENERATORS[sys.argv[1]](*sys.argv[2:]))
