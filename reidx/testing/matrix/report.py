"""Markdown report of the matrix: the allowed share of each pair of axes, and the refused pairs with reasons."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from reidx.testing.matrix.axes import AXES, Choice

Chosen = tuple[Choice, Choice]


def report(axes: Mapping[str, Sequence[Choice]], pairs: Sequence[Chosen], refused: Mapping[Chosen, str], trained: int) -> str:
    """Render the page: axes, allowed share of ``pairs``, and ``refused`` pairs; ``trained`` is the number of combinations."""
    listed = [f"* {kind}: {', '.join(map(str, axes[kind]))}" for kind in AXES]
    allowed = len(pairs) - len(refused)
    share = f"{allowed} of {len(pairs)} pairs ({allowed / len(pairs):.1%}) are allowed; {trained} combinations cover them."
    return "\n\n".join(["\n".join(listed), share, _shares(pairs, refused), _reasons(refused)])


def _shares(pairs: Sequence[Chosen], refused: Mapping[Chosen, str]) -> str:
    whole = Counter((a.kind, b.kind) for a, b in pairs)
    kept = whole - Counter((a.kind, b.kind) for a, b in refused)
    rows = [f"| | {' | '.join(AXES[1:])} |", f"|---{'|---' * (len(AXES) - 1)}|"]
    for kind in AXES[:-1]:
        cells = [f"{kept[kind, other]}/{n}" if (n := whole[kind, other]) else "" for other in AXES[1:]]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _reasons(refused: Mapping[Chosen, str]) -> str:
    """Render a row per refused component: its incompatible partners on an axis, and the reason for the first."""
    partners = Counter((one, other.kind) for a, b in refused for one, other in ((a, b), (b, a)))
    grouped: dict[tuple[Choice, str], list[tuple[Choice, str]]] = defaultdict(list)
    for (a, b), why in refused.items():
        # reported once, in the row of the part with more refused partners
        one, other = (a, b) if partners[a, b.kind] > partners[b, a.kind] else (b, a)
        grouped[one, other.kind].append((other, why))
    rows = ["| part | is refused with | the first for this reason |", "|---|---|---|"]
    for (one, kind), others in sorted(grouped.items(), key=lambda item: (AXES.index(item[0][0].kind), item[0][0].label)):
        names = ", ".join(str(other) for other, _ in others)
        rows.append(f"| {one.kind} {one} | {kind} {names} | {others[0][1].replace('|', '/')} |")
    return "\n".join(rows)
