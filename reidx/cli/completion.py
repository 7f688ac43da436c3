"""Print the script that completes commands, options, configs and components in a shell.

Load it in ~/.bashrc with `source <(reidx completion bash)`, or in ~/.zshrc, below compinit, with
`eval "$(reidx completion zsh)"`.
"""

from __future__ import annotations

import argparse
from typing import Any

from reidx.cli.parser import Parser

SHELLS = ("bash", "zsh", "tcsh")

_CONFIGS = {"bash": "_reidx_configs", "zsh": "_reidx_configs", "tcsh": "f:*.yaml"}
_COMPONENTS = {"bash": "_reidx_components", "zsh": "_reidx_components"}
_KINDS = {"bash": "_reidx_kinds", "zsh": "_reidx_kinds"}
_METHODS = {"bash": "_reidx_methods", "zsh": "_reidx_methods"}

# The entries of `reidx recipes` and `reidx list` are indented by two spaces; names must not be wrapped.
_BASH = r"""
_reidx_names() {  # $1: the word to complete; then a command that lists names
  local word="$1"; shift
  compgen -W "$(COLUMNS=10000 "${COMP_WORDS[0]/#\~/$HOME}" "$@" 2>/dev/null | sed -n 's/^  \([^ ]\{1,\}\).*/\1/p')" -- "$word"
}
_reidx_configs() {
  _reidx_names "$1" recipes
  compgen -d -S / -- "$1"
  compgen -f -X '!*.yaml' -- "$1"
  compgen -f -X '!*.yml' -- "$1"
}
_reidx_components() { _reidx_names "$1" list; }
_reidx_kinds() { compgen -W "@KINDS@" -- "$1"; }
_reidx_methods() { _reidx_names "$1" recipes | sed 's/::.*//' | sort -u; }
"""

# Bash splits `lp::market1501.yaml` at its colons: join the pieces, complete the whole word, and return what follows its last
# colon, because bash keeps the part before.
_BASH_COLONS = r"""
_reidx() {
  local word joined=() cursor=0 n
  for n in "${!COMP_WORDS[@]}"; do
    word="${COMP_WORDS[n]}"
    if [[ $n -gt 0 && ( $word == :* || ( -n $word && ${joined[${#joined[@]}-1]} == *: ) ) ]]; then
      joined[${#joined[@]}-1]+="$word"
    else
      joined+=("$word")
    fi
    [[ $n -eq $COMP_CWORD ]] && cursor=$((${#joined[@]} - 1))
  done
  local COMP_WORDS=("${joined[@]}") COMP_CWORD=$cursor
  _shtab_reidx
  word="${joined[cursor]}"
  if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
    for n in "${!COMPREPLY[@]}"; do COMPREPLY[n]="${COMPREPLY[n]#"${word%"${word##*:}"}"}"; done
  fi
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == */ ]] && compopt -o nospace 2>/dev/null
  return 0
}
complete -o bashdefault -F _reidx reidx
"""

_ZSH = r"""
_reidx_names() {
  local -a names=(${(f)"$(COLUMNS=10000 reidx "$@" 2>/dev/null | sed -n 's/^  \([^ ]\{1,\}\).*/\1/p')"})
  compadd -a names
}
_reidx_configs() { _reidx_names recipes; _files -g '*.(yaml|yml)' }
_reidx_components() { _reidx_names list }
_reidx_kinds() { compadd @KINDS@ }
_reidx_methods() {
  local -aU methods=(${${(f)"$(COLUMNS=10000 reidx recipes 2>/dev/null | sed -n 's/^  \([^ ]*\)::.*/\1/p')"}})
  compadd -a methods
}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def run(arguments: argparse.Namespace) -> int:
    import shtab

    from reidx.registry.registry import KINDS

    kinds = " ".join(KINDS)
    preamble: Any = {"bash": _BASH.replace("@KINDS@", kinds), "zsh": _ZSH.replace("@KINDS@", kinds)}
    script = shtab.complete(_whole_parser(), arguments.shell, root_prefix="reidx", preamble=preamble)
    print(script, end=_BASH_COLONS if arguments.shell == "bash" else "\n")
    return 0


def _whole_parser() -> Parser:
    """Return a parser of all commands whose actions carry the completion of their values."""
    import shtab

    from reidx.cli.main import COMMANDS, add_command_arguments, own_parser

    values: dict[str, Any] = {
        "config": _CONFIGS,
        "grid": shtab.FILE,
        "runs": shtab.DIRECTORY,
        "work_dir": shtab.DIRECTORY,
        "share": shtab.DIRECTORY,
        "into": shtab.DIRECTORY,
        "weights": shtab.FILE,
        "method": _METHODS,
        "path": shtab.FILE,
        "json": shtab.FILE,
        "kind": _KINDS,
    }
    parser = own_parser()
    commands = parser.add_subparsers()
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        add_command_arguments(command, name)
        _complete(command, {**values, "name": _COMPONENTS} if name == "show" else values)
    return parser


def _complete(command: argparse.ArgumentParser, values: dict[str, Any]) -> None:
    """Mark the arguments of a command, and of those below it, with the completion of their values."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete(below, values)
        elif action.dest in values and action.choices is None:
            action.complete = values[action.dest]  # type: ignore[attr-defined]
