"""Conditions of a result: the facts of its card on which a comparison of its numbers with others depends."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

WIDTH = 80
"""Columns of a line."""

MANY = 3
"""More names than these are shown as ``all others``."""


def conditions_of(card: Mapping[str, Any], stage_card: Mapping[str, Any], seed: bool = True) -> dict[str, str]:
    """Return the conditions of a stage's numbers as short texts by name: data, protocol, distance, epoch, precision, …

    ``card`` is the experiment's and ``stage_card`` the stage's; facts that they lack are left out. Empty without an
    evaluation.
    """
    evaluation = stage_card.get("evaluation") or {}
    if not evaluation:
        return {}
    trained = "tested" not in stage_card
    cameras = stage_card.get("cameras_in_sampling")
    found = {
        "data": _data(card, evaluation),
        "protocol": _protocol(evaluation),
        "trials": f"mean of {evaluation['trials']} trials" if evaluation.get("trials", 1) > 1 else "",
        "splits": f"mean over {evaluation['splits']} splits" if "splits" in evaluation else "",
        "AP": f"AP {evaluation['ap'].rpartition(', ')[2]}" if "ap" in evaluation else "",
        "distance": f"{evaluation['metric']} distance" if "metric" in evaluation else "",
        "feature": f"feature {evaluation['feature']} of {evaluation['network']}" if "feature" in evaluation else "",
        "flip": ("flip" if evaluation["flip"] else "no flip") if "flip" in evaluation else "",
        "re-ranking": _reranking(evaluation),
        "images": f"images {'x'.join(map(str, card['image_size']))}" if "image_size" in card else "",
        "weights": _weights(stage_card),
        "epoch": stage_card.get("selection", "") if trained else "",
        "precision": stage_card.get("precision", ""),
        "BatchNorm group": f"BatchNorm group {stage_card['bn_group']}" if trained and stage_card.get("bn_group") else "",
        "cameras": ("cameras in sampling" if cameras else "no cameras in sampling") if trained and cameras is not None else "",
        "seed": f"seed {card['seed']}" if seed and "seed" in card else "",
    }
    return {name: text for name, text in found.items() if text}


def condition_lines(results: Mapping[str, Mapping[str, str]], differ: str) -> list[str]:
    """Format the conditions of several results, by the name of each, as lines of at most 80 columns.

    Conditions that all results share come first. Each of the others has its own line, which begins with ``differ`` and
    names the results that have each text.
    """
    known = {name: facts for name, facts in results.items() if facts}
    names = list(dict.fromkeys(fact for facts in known.values() for fact in facts))
    common, different = [], []
    for fact in names:
        by_text: dict[str, list[str]] = {}
        for name, facts in known.items():
            by_text.setdefault(facts.get(fact, f"{fact} not known"), []).append(name)
        if len(by_text) == 1:
            common.append(next(iter(by_text)))
        else:
            different.append(f"{differ}: {_by_name(by_text)}")
    folded = (textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_on_hyphens=False) for line in different)
    return [*_joined(common), *(line for lines in folded for line in lines)]


def unfolded(lines: Iterable[str]) -> list[str]:
    """Join continuation lines, which are indented, to the line before."""
    return "\n".join(lines).replace("\n  ", " ").splitlines()


def _by_name(by_text: Mapping[str, list[str]]) -> str:
    largest = max(by_text, key=lambda text: len(by_text[text]))
    rest = largest if len(by_text[largest]) > MANY else None
    shown = {text: "all others" if text == rest else " / ".join(names) for text, names in by_text.items()}
    return "; ".join(f"{text} ({names})" for text, names in shown.items())


def _joined(texts: Iterable[str]) -> list[str]:
    """Join texts by dots into lines."""
    lines: list[str] = []
    for text in texts:
        if lines and len(lines[-1]) + len(text) + 3 <= WIDTH:
            lines[-1] += f" · {text}"
        else:
            lines += textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _data(card: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    domain = card.get("data", {}).get(evaluation.get("domain"), {})
    queries, valid = evaluation.get("queries"), evaluation.get("valid_queries")
    texts = [" ".join(str(domain[key]) for key in ("name", "version") if domain.get(key))]
    if queries is not None:
        texts.append(f"{queries:,} queries" if valid in (None, queries) else f"{valid:,} of {queries:,} queries")
    if "gallery" in evaluation:
        kind = "groups" if "gallery" in (evaluation.get("groups") or {}) else "images"
        texts.append(f"{evaluation['gallery']:,} gallery {kind}")
    return ", ".join(filter(None, texts))


def _protocol(evaluation: Mapping[str, Any]) -> str:
    if "protocol" not in evaluation:
        return ""
    facts = ["own camera ignored" if evaluation.get("camera_filter") else "own camera counts"]
    groups = evaluation.get("groups") or {}
    facts += [f"{side}: {text}" for side, text in groups.items()]
    stated = {"query", "gallery", "nearest"} if groups else set()  # the settings by which Grouped makes its groups
    settings = evaluation.get("protocol_settings", {})
    given = {name: value for name, value in settings.items() if name not in stated and value is not False}
    facts += [name if value is True else f"{name} {value}" for name, value in given.items()]
    if names := evaluation.get("protocol_metrics"):
        over = evaluation.get("protocol_denominators", {})
        by_queries: dict[str, list[str]] = {}
        for name in names:
            usual = over.get(name) in (None, evaluation.get("denominator"))
            by_queries.setdefault("" if usual else f" over {over[name]}", []).append(name)
        facts += [f"its own {', '.join(same)}{queries}" for queries, same in by_queries.items()]
    return f"protocol {evaluation['protocol']} {evaluation.get('protocol_version', '')}".rstrip() + f" ({', '.join(facts)})"


def _reranking(evaluation: Mapping[str, Any]) -> str:
    if "reranking" not in evaluation:
        return ""
    chosen = evaluation["reranking"]
    if chosen is None:
        return "no re-ranking"
    settings = [value if name == "method" else f"{name} {value}" for name, value in chosen.items()]
    return f"re-ranked only where named ({', '.join(settings)})"


def _weights(stage_card: Mapping[str, Any]) -> str:
    """Source of the tested weights, or of those before the first epoch."""
    tested = stage_card.get("tested", "as built")
    if tested != "as built":
        return f"weights {tested}"
    source = stage_card.get("init") or stage_card.get("weights")
    if source is None:
        return ""
    named = {True: "pretrained weights", False: "random weights"}.get(source, str(source).replace("stage:", "stage "))
    return f"starts from {named}"
