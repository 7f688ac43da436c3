"""Pairwise covering: few combinations that contain every possible pair of values, if not all combinations are allowed."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Combination = tuple[int, ...]
"""Position of a value on each axis."""
Value = tuple[int, int]
"""An axis and a position on it."""
Pair = tuple[Value, Value]
"""Two values of different axes, that of the earlier axis first."""

TRIES = 60
"""Number of random combinations for a pair, of which the best allowed one is used."""
CHECKED = 8
"""Maximum number of them that are checked."""


@dataclass(frozen=True)
class Cover:
    """Allowed ``combinations`` that together contain each wanted pair except the ``refused``, which map to their reasons."""

    combinations: list[Combination]
    refused: dict[Pair, str]


def cover(
    sizes: Sequence[int],
    refusal: Callable[[Combination], str | None],
    wanted: Callable[[Pair], bool] = lambda pair: True,
) -> Cover:
    """Cover the pairs ``wanted`` of axes with ``sizes`` values; deterministic for the same answers of ``refusal``.

    ``refusal`` returns the reason why a combination is not allowed, None if it is allowed. A pair counts as refused if no
    allowed combination with it is found: neither a mixture of two allowed combinations that have one of its values each, nor
    one that differs in one more value from the less common of these two with the pair inserted; the reason is that of the
    latter without the further value. Combinations are built greedily, pair by pair, as in AETG (Cohen et al., IEEE
    Transactions on Software Engineering 1997): of several random ones, the allowed one with the most uncovered pairs is used.
    """
    return _Search(sizes, refusal).run([pair for pair in pairs_of(sizes) if wanted(pair)])


def pairs_of(sizes: Sequence[int]) -> Iterator[Pair]:
    """Yield all pairs of values of different axes."""
    for (one, first), (other, second) in itertools.combinations(enumerate(sizes), 2):
        for a, b in itertools.product(range(first), range(second)):
            yield (one, a), (other, b)


def pairs_in(combination: Combination) -> Iterator[Pair]:
    """Yield the pairs in a combination."""
    return itertools.combinations(enumerate(combination), 2)  # type: ignore[return-value]


class _Search:
    def __init__(self, sizes: Sequence[int], refusal: Callable[[Combination], str | None]) -> None:
        self.sizes, self.refusal, self.random = sizes, refusal, random.Random(0)
        self.answers: dict[Combination, str | None] = {}
        self.base: Combination = (0,) * len(sizes)
        self.with_value: dict[Value, Combination] = {}
        self.with_pair: dict[Pair, Combination] = {}
        self.refused: dict[Pair, str] = {}

    def run(self, wanted: list[Pair]) -> Cover:
        for value in sorted({value for pair in wanted for value in pair}):
            self.find_with_value(value)
        for pair in wanted:
            if pair not in self.with_pair:
                self.find_with_pair(pair)
        left = {pair for pair in wanted if pair not in self.refused}
        chosen = []
        while left:
            chosen.append(self.best_combination(min(left), left))
            left -= set(pairs_in(chosen[-1]))
        return Cover(_without_redundant(chosen, set(wanted)), self.refused)

    def allowed(self, combination: Combination) -> bool:
        if combination not in self.answers:
            self.answers[combination] = self.refusal(combination)
            if self.answers[combination] is None:
                for value in enumerate(combination):
                    self.with_value.setdefault(value, combination)
                for pair in pairs_in(combination):
                    self.with_pair.setdefault(pair, combination)
        return self.answers[combination] is None

    def find_with_value(self, value: Value) -> None:
        """Search for an allowed combination with a value and, except for at most two others, the first value of each axis."""
        others = [(axis, v) for axis, size in enumerate(self.sizes) for v in range(size) if axis != value[0]]
        for count in range(3):
            for changes in itertools.combinations(others, count):
                if value in self.with_value:
                    return
                if len({axis for axis, _ in changes}) == count:
                    self.allowed(_changed(self.base, [value, *changes]))

    def find_with_pair(self, pair: Pair) -> None:
        """Search for an allowed combination with a pair: a mixture of two with one of its values each, or one step away."""
        parents = [self.with_value.get(value, self.base) for value in pair]
        for mixture in sorted(set(itertools.product(*(sorted(set(values)) for values in zip(*parents))))):
            if self.allowed(_changed(mixture, pair)):
                return
        demanding = max(parents, key=lambda parent: sum(one != other for one, other in zip(parent, self.base)))
        mixed = _changed(demanding, pair)
        for axis in set(range(len(self.sizes))) - {axis for axis, _ in pair}:
            if any(self.allowed(_changed(mixed, [(axis, value)])) for value in range(self.sizes[axis])):
                return
        self.refused[pair] = self.answers[mixed] or ""

    def best_combination(self, pair: Pair, left: set[Pair]) -> Combination:
        """Return an allowed combination with a pair and many of the remaining pairs."""
        made = {self.extend(pair, left) for _ in range(TRIES)}
        ordered = sorted(made, key=lambda combination: (-_new_pairs(combination, left), combination))
        fallback = self.with_pair[pair]
        for combination in ordered[:CHECKED]:
            if _new_pairs(combination, left) <= _new_pairs(fallback, left):
                break
            if self.allowed(combination):
                return combination
        return fallback

    def extend(self, pair: Pair, left: set[Pair]) -> Combination:
        """Extend a pair to a combination: for each axis, in random order, add the value with the most remaining pairs."""
        chosen = dict(pair)
        axes = [axis for axis in range(len(self.sizes)) if axis not in chosen]
        self.random.shuffle(axes)
        for axis in axes:
            made = {v: [_pair((axis, v), other) for other in chosen.items()] for v in range(self.sizes[axis])}
            possible = {v: pairs for v, pairs in made.items() if not any(p in self.refused for p in pairs)} or made
            most = max(sum(p in left for p in pairs) for pairs in possible.values())
            chosen[axis] = self.random.choice([v for v, ps in possible.items() if sum(p in left for p in ps) == most])
        return tuple(chosen[axis] for axis in range(len(self.sizes)))


def _pair(one: Value, other: Value) -> Pair:
    return (one, other) if one < other else (other, one)


def _changed(combination: Combination, values: Iterable[Value]) -> Combination:
    changed = dict(enumerate(combination)) | dict(values)
    return tuple(changed[axis] for axis in range(len(combination)))


def _new_pairs(combination: Combination, left: set[Pair]) -> int:
    return sum(pair in left for pair in pairs_in(combination))


def _without_redundant(combinations: list[Combination], wanted: set[Pair]) -> list[Combination]:
    """Remove combinations whose wanted pairs are all in others, starting with the last, which have the fewest pairs."""
    held = Counter(pair for combination in combinations for pair in pairs_in(combination) if pair in wanted)
    kept = []
    for combination in reversed(combinations):
        own = [pair for pair in pairs_in(combination) if pair in wanted]
        if min(held[pair] for pair in own) > 1:
            held.subtract(own)
        else:
            kept.append(combination)
    return kept[::-1]
