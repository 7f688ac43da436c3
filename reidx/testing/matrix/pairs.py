"""Few combinations that hold every pair of values which can stand together, where not all combinations are allowed."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Combination = tuple[int, ...]
"""The position of a value on each axis."""
Value = tuple[int, int]
"""An axis, and a position on it."""
Pair = tuple[Value, Value]
"""Two values of different axes, that of the earlier axis first."""

TRIES = 60
"""Combinations that are made up for a pair, the best of which is taken."""
ASKED = 8
"""Maximum number of these that are checked."""


@dataclass(frozen=True)
class Cover:
    """``combinations`` are allowed and together hold each wanted pair, but for the ``refused``, each with the reason."""

    combinations: list[Combination]
    refused: dict[Pair, str]


def cover(
    sizes: Sequence[int],
    refusal: Callable[[Combination], str | None],
    wanted: Callable[[Pair], bool] = lambda pair: True,
) -> Cover:
    """The cover of axes of ``sizes`` values, of the pairs ``wanted``; the same for the same answers of ``refusal``.

    ``refusal`` says why a combination is not allowed, None if it is. A pair counts as refused when all mixtures of an allowed
    combination that has its one value and an allowed one that has the other are, and all that differ by one more value from
    the more unusual of these two with the pair put into it, whose reason is kept. Combinations grow greedily, pair by pair,
    as in AETG (Cohen et al., IEEE Transactions on Software Engineering 1997): of some made up at random the allowed one that
    holds most of what is not held yet.
    """
    return _Search(sizes, refusal).run([pair for pair in pairs_of(sizes) if wanted(pair)])


def pairs_of(sizes: Sequence[int]) -> Iterator[Pair]:
    """All pairs of values of different axes."""
    for (one, first), (other, second) in itertools.combinations(enumerate(sizes), 2):
        for a, b in itertools.product(range(first), range(second)):
            yield (one, a), (other, b)


def held_by(combination: Combination) -> Iterator[Pair]:
    """The pairs that a combination holds."""
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
            self.find(value)
        for pair in wanted:
            if pair not in self.with_pair:
                self.mix(pair)
        left = {pair for pair in wanted if pair not in self.refused}
        chosen = []
        while left:
            chosen.append(self.best(min(left), left))
            left -= set(held_by(chosen[-1]))
        return Cover(_needed(chosen, set(wanted)), self.refused)

    def allowed(self, combination: Combination) -> bool:
        if combination not in self.answers:
            self.answers[combination] = self.refusal(combination)
            if self.answers[combination] is None:
                for value in enumerate(combination):
                    self.with_value.setdefault(value, combination)
                for pair in held_by(combination):
                    self.with_pair.setdefault(pair, combination)
        return self.answers[combination] is None

    def find(self, value: Value) -> None:
        """Look for an allowed combination with a value: the first values of all axes, but for it and at most two more."""
        others = [(axis, v) for axis, size in enumerate(self.sizes) for v in range(size) if axis != value[0]]
        for count in range(3):
            for changes in itertools.combinations(others, count):
                if value in self.with_value:
                    return
                if len({axis for axis, _ in changes}) == count:
                    self.allowed(_changed(self.base, [value, *changes]))

    def mix(self, pair: Pair) -> None:
        """Look for an allowed combination with a pair: between two that have its one and its other value, or one step off."""
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

    def best(self, pair: Pair, left: set[Pair]) -> Combination:
        """An allowed combination that holds a pair and many of the remaining ones."""
        made = {self.grown(pair, left) for _ in range(TRIES)}
        ordered = sorted(made, key=lambda combination: (-_gain(combination, left), combination))
        fallback = self.with_pair[pair]
        for combination in ordered[:ASKED]:
            if _gain(combination, left) <= _gain(fallback, left):
                break
            if self.allowed(combination):
                return combination
        return fallback

    def grown(self, pair: Pair, left: set[Pair]) -> Combination:
        """A combination around a pair: axis after axis, in random order, the value that adds most of what is left."""
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


def _gain(combination: Combination, left: set[Pair]) -> int:
    return sum(pair in left for pair in held_by(combination))


def _needed(combinations: list[Combination], wanted: set[Pair]) -> list[Combination]:
    """Those without which some wanted pair would not be held; the later ones, which hold least, are left out first."""
    held = Counter(pair for combination in combinations for pair in held_by(combination) if pair in wanted)
    kept = []
    for combination in reversed(combinations):
        own = [pair for pair in held_by(combination) if pair in wanted]
        if min(held[pair] for pair in own) > 1:
            held.subtract(own)
        else:
            kept.append(combination)
    return kept[::-1]
