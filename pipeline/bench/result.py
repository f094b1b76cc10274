"""What a benchmark finds: rows of ours beside a peer, each with every run, and what was not measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

Better = Literal["higher", "lower"]
OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a row should reach.

    Attributes:
        of: the number that is judged: how many times better than the peer, or our own value.
        at_least, at_most: the bound, one of them.
    """

    of: Literal["ratio", "ours"]
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )

    def __str__(self) -> str:
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{sign} {bound:g}{'x' if self.of == 'ratio' else ''}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        what: the work.
        unit: of `ours` and `theirs`.
        ours: our value in every run, not empty.
        peer: with whom we compare; None for a value that stands alone.
        theirs: the peer's value in every run.
        better: which way is better.
    """

    what: str
    unit: str
    ours: tuple[float, ...]
    peer: str | None = None
    theirs: tuple[float, ...] = ()
    better: Better = "higher"
    goal: Goal | None = None

    @property
    def ratio(self) -> float | None:
        """How many times better we are, from medians."""
        if not self.theirs:
            return None
        ours, theirs = median(self.ours), median(self.theirs)
        return ours / theirs if self.better == "higher" else theirs / ours

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        value = self.ratio if self.goal and self.goal.of == "ratio" else median(self.ours)
        return None if self.goal is None or value is None else self.goal.met(value)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with all runs."""
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": median(self.ours),
            "ours_runs": list(self.ours),
            "peer": self.peer,
            "theirs": median(self.theirs) if self.theirs else None,
            "theirs_runs": list(self.theirs),
            "ratio": self.ratio,
            "goal": str(self.goal) if self.goal else None,
            "met": self.met,
        }


@dataclass(kw_only=True)
class Findings:
    """Rows of one benchmark, and remarks: conditions, and what was not measured and why."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def take_turns(contenders: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, tuple[float, ...]]:
    """Runs every contender once, then all again (A B A B), so that a change of the machine hits all alike."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, measure in contenders.items():
            found[name].append(measure())
    return {name: tuple(values) for name, values in found.items()}


def against(
    what: str,
    unit: str,
    runs: Mapping[str, Sequence[float]],
    *,
    better: Better = "higher",
    goals: Mapping[str, Goal] | None = None,
) -> list[Row]:
    """A row for every peer in `runs`; ours are the runs called "ours"."""
    return [
        Row(
            what=what,
            unit=unit,
            ours=tuple(runs[OURS]),
            peer=peer,
            theirs=tuple(theirs),
            better=better,
            goal=(goals or {}).get(peer),
        )
        for peer, theirs in runs.items()
        if peer != OURS
    ]
