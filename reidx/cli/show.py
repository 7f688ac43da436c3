"""Show a component: its keys with types and defaults, its contract, its source, and an example."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re

import yaml

from reidx.cli.console import print_heading, print_lines, print_paragraphs, print_table
from reidx.config.parts import places
from reidx.config.schema import SLOTS
from reidx.registry.build import Parameter, signature_of
from reidx.registry.discovery import plugins, registry
from reidx.registry.registry import KINDS, Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a component by its name in `reidx list`: DBSCAN, lf2.FusionModule")
    parser.add_argument(
        "--kind",
        choices=tuple(KINDS),
        metavar="KIND",
        help=f"kind, where several components share the name: {', '.join(KINDS)}",
    )


def run(arguments: argparse.Namespace) -> int:
    known = registry()
    if arguments.kind:
        _show(known.find(arguments.kind, arguments.name))
    else:
        for entry in known.with_name(arguments.name):
            _show(entry)
    return 0


def _show(entry: Entry) -> None:
    component = entry.load()
    kind = KINDS[entry.kind]
    print_heading(f"{entry.kind} {entry.name}")
    print(f"{entry.component.target}, from {entry.distribution}")
    print_lines(_credits(entry))
    print()
    print_paragraphs(_text(component.__doc__ or "(no docstring)"))

    print_heading("keys")
    rows = [_row(parameter, kind.context) for parameter in signature_of(entry).values()]
    if rows:
        print_table(("key", "default", "type"), rows)
    else:
        print("none")
    if entry.kind in SLOTS:
        others = [field for field in dataclasses.fields(SLOTS[entry.kind]) if field.name != entry.kind]
        print_heading(f"other keys of its slot, next to {entry.kind}")
        print_table(("key", "default", "type"), [(f.name, repr(f.default), str(f.type)) for f in others])

    print_heading("contract")
    print_lines([f"takes {kind.given}; returns {kind.returns}", *contract_lines(entry, component)])

    print_heading("example")
    print(yaml.safe_dump(example_of(entry), sort_keys=False, width=10_000, allow_unicode=True), end="")


def _credits(entry: Entry) -> list[str]:
    if entry.from_library:
        return []
    info = next(plugin.info for plugin in plugins() if plugin.namespace == entry.namespace)
    if info is None:
        return []
    facts = {"paper": info.paper, "code": info.url, "licence": info.licence}
    return [f"{name}: {text}" for name, text in facts.items() if text]


def _row(parameter: Parameter, context: tuple[str, ...]) -> tuple[str, str, str]:
    if parameter.name in context:
        default = "(supplied)"
    else:
        default = "(required)" if parameter.required else repr(parameter.default)
    return parameter.name, default, parameter.annotation


def contract_lines(entry: Entry, component: type) -> list[str]:
    """Return the contract of a component with the arguments of its example, one line per non-empty declaration."""
    from reidx.contracts import contract_of

    try:
        contract = contract_of(component, entry.component.example)
    except TypeError as error:
        return [f"(cannot be read: {error})"]
    lines = _inputs(entry.kind, component)
    for name, value in vars(contract).items():
        text = ", ".join(sorted(value)) if isinstance(value, frozenset) else value
        if text:
            lines.append(f"{name}: {text}")
    return lines


def _inputs(kind: str, component: type) -> list[str]:
    from reidx.contracts import inputs_of_kind

    needed, optional = inputs_of_kind(kind, component)
    rows = {"gets by name": needed, "gets by name, if available": optional}
    return [f"{what}: {', '.join(sorted(names))}" for what, names in rows.items() if names]


def example_of(entry: Entry) -> object:
    """Return the component in its place in an experiment."""
    if entry.kind == "weights":  # a config names the file, whose tensors show the layout
        return {"model": {"backbone": {"type": "Timm", "name": "NAME", "weights": "FILE"}}}
    example: object = {"type": entry.name, **entry.component.example}
    for key in reversed(places()[entry.kind].split(".")):
        example = [example] if key == "0" else {key: example}
    return example


def _text(docstring: str) -> str:
    """Return a docstring without its markup."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(docstring))
    return plain.replace("``", "`")
