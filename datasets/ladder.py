"""What is tried, one after the other, until enough photos have a pose: decisions only, no work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from recon.datasets.mapping import Mapper
from recon.datasets.matching import Features, Matches

ENOUGH = 0.8  # share of the photos

USUAL, FINE = Features(), Features(size=3200, count=12_000, peak=0.003)
GENEROUS = Matches(ratio=0.85, guided=True, fewest=10, breadth=3)


@dataclass(frozen=True)
class Rung:
    """One thing to try.

    Attributes:
        name: what it is, in words.
        relaxed: see `mapping.run`.
    """

    name: str
    mapper: Mapper = "incremental"
    relaxed: bool = False
    features: Features = field(default_factory=Features)
    matches: Matches = field(default_factory=Matches)


RUNGS = (
    Rung("photo by photo"),
    Rung("all photos at once", mapper="global"),
    Rung("photo by photo, from another first pair and with lower thresholds", relaxed=True),
    Rung("guided matching of more pairs", relaxed=True, matches=GENEROUS),
    Rung("guided matching of more pairs, all photos at once", mapper="global", matches=GENEROUS),
    Rung("more and finer features", relaxed=True, features=FINE, matches=GENEROUS),
    Rung("more and finer features, all photos at once", mapper="global", features=FINE, matches=GENEROUS),
)


@dataclass(frozen=True)
class Found:
    """The largest model of a rung: photos with a pose, points, how many models there are, where it is, and how many it
    was joined with."""

    registered: int
    points: int
    models: int
    model: Path
    joined: int = 0


@dataclass(frozen=True)
class Climbed:
    """The best that was found (None: nothing), what was done, in words, and the pairs that matched on the first rung:
    those that do so only by lower thresholds may be chance."""

    best: Found | None
    done: tuple[str, ...]
    matched: int


class Pipeline(Protocol):
    def match(self, rung: Rung) -> int:
        """Pairs of photos that match, when looked for as `rung` says."""

    def map(self, rung: Rung) -> Found:
        """What the rung's mapper makes of its matches."""


def climb(count: int, pipeline: Pipeline, say: Callable[[str], None], rungs: tuple[Rung, ...]) -> Climbed:
    """Try the rungs in their order until enough of `count` photos have a pose, and keep the best.

    A rung is left out where no two photos match as it looks for them.
    """
    best: Found | None = None
    done: list[str] = []
    usual = 0
    for number, rung in enumerate(rungs):
        matched, found = pipeline.match(rung), None
        usual = usual if number else matched
        if matched < 2:  # three photos hang together by two pairs at least
            told = f"{rung.name}: {matched or 'no'} {'pair' if matched == 1 else 'pairs'} of photos match"
        else:
            found = pipeline.map(rung)
            told = f"{rung.name}: {found.registered} of {count} photos have poses"
            if found.joined:
                told += f", {found.joined + 1} parts joined by the photos that they share"
            if found.models > 1:
                told += f", in the largest of {found.models} parts that do not join"
            if found.registered and (best is None or _better(found, best)):
                best = found
        enough = best is not None and best.registered >= ENOUGH * count
        if done and done[-1] == told:
            continue
        done.append(told)
        if enough:
            if number or (found is not None and found.joined):
                say(f"Tried {told}.")
            break
        say(f"Tried {told}." + (" Trying on." if number + 1 < len(rungs) else ""))
    return Climbed(best, tuple(done), usual)


def _better(one: Found, other: Found) -> bool:
    return (one.registered, one.points) > (other.registered, other.points)
