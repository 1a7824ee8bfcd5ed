"""Which combinations of remedies to try, and in what order: what the findings call for first, some at random always."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest

from unvanish.records import Finding
from unvanish.remedies import Remedy
from unvanish.trials.train import Candidate

RANDOM_EVERY = 5
"""One candidate in five is drawn at random: a diagnosis may be wrong, and racing is cheap."""
PARTNERS = ("standardise-inputs", "output-layer", "optimizer-adam", "lr-10", "lr-0.1", "critical-init")
"""What repaired most often as the second edit of a pair."""
STRUCTURE = (
    "activation", "normalisation", "residual", "output", "data", "noise", "numbers", "init", "optimizer", "rate",
    "clip",
)  # fmt: skip
"""The order in which the edits of a pair are made: weights are drawn for the layers that are there in the end."""


def ordered(catalogue: Sequence[Remedy], findings: Sequence[Finding], seed: int) -> Iterator[Candidate]:
    """Every single edit and every pair, once each: answers to the findings, pairs with them, other singles, random.

    ``catalogue``: of the remedies for one kind of network or one fault only those that apply. Those that saw their
    fault come first; the answers of several findings take turns, errors first. Then, in turn: two answers, a pair of an
    answer and a likely partner, a single edit not yet tried; every fifth candidate is drawn at random from all.
    """
    remedies = {each.slug: each for each in catalogue}
    answers = answers_to(catalogue, findings)
    rest = _by_kind([each for each in catalogue if each.slug not in answers])
    pairs = _pairs(answers, rest, remedies)
    streams = [[(slug,) for slug in answers], pairs, [(slug,) for slug in rest]]
    everything = list(chain.from_iterable(streams))
    random.Random(seed).shuffle(everything)
    yield from _unique(_interleaved(streams, everything))


def at_random(catalogue: Sequence[Remedy], seed: int) -> Iterator[Candidate]:
    """Every single edit and every pair in random order: what the order by diagnosis is measured against."""
    remedies = {each.slug: each for each in catalogue}
    slugs = list(remedies)
    everything = [*((slug,) for slug in slugs), *_pairs([], slugs, remedies)]
    random.Random(seed).shuffle(everything)
    yield from everything


def answers_to(catalogue: Sequence[Remedy], findings: Sequence[Finding]) -> list[str]:
    """The remedies that see their own fault, then those that answer the findings, errors first and in turn."""
    known = {each.slug for each in catalogue}
    seen = [each.slug for each in catalogue if each.only_for == "fault"]
    lists: list[list[str]] = []
    for finding in sorted(findings, key=lambda f: f.level != "error"):
        named = [slug for slug in finding.remedies if slug in known]
        named += [each.slug for each in catalogue if any(finding.code.startswith(code) for code in each.answers)]
        lists.append(list(dict.fromkeys(named)))
    turns = chain.from_iterable(zip_longest(*lists))
    return list(dict.fromkeys([*seen, *(slug for slug in turns if slug is not None)]))


def _by_kind(remedies: Sequence[Remedy]) -> list[str]:
    """The remedies of different kinds in turn."""
    kinds = list(dict.fromkeys(each.kind for each in remedies))
    lists = [[each.slug for each in remedies if each.kind == kind] for kind in kinds]
    return [slug for slug in chain.from_iterable(zip_longest(*lists)) if slug is not None]


def _pairs(answers: list[str], rest: list[str], remedies: dict[str, Remedy]) -> list[Candidate]:
    """Pairs of edits of different kinds, the likely ones first: small sum of the ranks as first and as second edit."""
    first = [*answers, *rest]
    usual = [slug for slug in PARTNERS if slug in remedies]
    turns = [slug for slug in chain.from_iterable(zip_longest(usual, answers)) if slug is not None]
    second = list(dict.fromkeys([*turns, *first]))
    ranked: dict[Candidate, int] = {}
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            if remedies[a].kind == remedies[b].kind and remedies[a].kind != "data":
                continue
            if a == b:
                continue
            pair = in_order((a, b), remedies)
            ranked[pair] = min(ranked.get(pair, i + j), i + j)
    return sorted(ranked, key=lambda pair: ranked[pair])


def in_order(candidate: Iterable[str], remedies: dict[str, Remedy]) -> Candidate:
    """The edits in the order in which they are made."""

    def place(slug: str) -> int:
        kind = remedies[slug].kind
        return STRUCTURE.index(kind) if kind in STRUCTURE else len(STRUCTURE)

    return tuple(sorted(candidate, key=place))


def _interleaved(streams: list[list[Candidate]], everything: list[Candidate]) -> Iterator[Candidate]:
    answers, pairs, singles = map(iter, streams)
    turns = (answers, pairs, answers, singles)
    lot = iter(everything)
    left = True
    while left:
        left = False
        for count, turn in enumerate(turns, 1):
            if (candidate := next(turn, None)) is not None:
                left = True
                yield candidate
            if count == RANDOM_EVERY - 1 and (drawn := next(lot, None)) is not None:
                left = True
                yield drawn


def _unique(candidates: Iterable[Candidate]) -> Iterator[Candidate]:
    seen: set[Candidate] = set()
    for candidate in candidates:
        if candidate not in seen:
            seen.add(candidate)
            yield candidate
