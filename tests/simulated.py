"""What all simulations share: virtual time, chance from a seed, and what came of a seed. No wall clock anywhere."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final, TypeAlias, final

from peer.optim.batches import Batches
from peer.problem import Problem

Tell: TypeAlias = Callable[[str], None]
"""Takes a line for everything that happens."""

FAULTS: Final = (
    "message lost",
    "message duplicated",
    "message overtaken",
    "message corrupted",
    "message late",
    "message replaced by a newer one",
    "connection broken",
    "partition",
    "one-way cut",
    "peer stopped for a while",
    "slow peer",
    "slow link",
    "crash",
    "restart from the last checkpoint",
    "restart from an older checkpoint",
    "restart from a checkpoint of an older epoch",
    "restart from nothing",
    "sent back for its last checkpoint",
    "join",
    "leave",
    "loss for good",
    "return",
)
"""What the simulations inject, as they count it."""


HALVED: Final = "step halved, as it was too long"
"""What the simulations count beside faults."""


def silent(line: str) -> None:
    """Tell nobody."""


@final
class Clock:
    """Virtual time, what is to happen, and the chance of one seed.

    Parameters
    ----------
    seed : str
        Same seed, same chance, whatever the machine.
    tell : callable
        Takes a line for everything that happens.
    """

    def __init__(self, seed: str, tell: Tell = silent) -> None:
        self.now = 0.0
        self.n_events = 0
        self.chance = random.Random(seed)
        self._tell = tell
        self._order = count()
        self._events: list[tuple[float, int, Callable[[], object]]] = []

    def tell(self, line: str) -> None:
        """One line on what happens now."""
        if self._tell is not silent:
            self._tell(f"{self.now:9.3f}  {line}")

    def at(self, time: float, event: Callable[[], object]) -> None:
        """Something that happens at a time; of two at the same time the one that was set first comes first."""
        heapq.heappush(self._events, (max(time, self.now), next(self._order), event))

    def later(self, delay: float, event: Callable[[], object]) -> None:
        """Something that happens after a while."""
        self.at(self.now + delay, event)

    def soon(self, mean: float = 1.0) -> float:
        """A while, exponentially distributed."""
        return self.chance.expovariate(1.0 / mean)

    def happens(self, probability: float) -> bool:
        """Whether something of a probability happens; certain things cost no chance."""
        return probability > 0.0 and self.chance.random() < probability

    def step(self) -> bool:
        """The next event; False where nothing happens any more."""
        if not self._events:
            return False
        self.now, _, event = heapq.heappop(self._events)
        self.n_events += 1
        event()
        return True


@final
@dataclass(frozen=True)
class Outcome:
    """What came of a seed at which all that must hold did hold.

    Parameters
    ----------
    seed : int
        Which one.
    n_events : int
        Of the clock.
    happened : Counter
        What was injected, by the names of `FAULTS`, and what else was counted.
    distance : float
        From what the run had to arrive at; 0 where it had not to arrive anywhere.
    queue : int
        Messages on their way over one connection at once, at most.
    """

    seed: int
    n_events: int
    happened: Counter[str] = field(repr=False)
    distance: float
    queue: int


@contextmanager
def replayable(mode: str, seed: int, what: object) -> Iterator[None]:
    """Turn whatever goes wrong inside into a failure that names its seed, and how to see it again.

    Raises
    ------
    AssertionError
        Something does not hold, or broke.
    """
    try:
        yield
    except Exception as error:
        problem = str(error) if isinstance(error, AssertionError) else repr(error)
        again = f"replay it by: python -m tests.simulate --mode {mode} --seed {seed}"
        raise AssertionError(f"seed {seed}: {problem}\n{what}\n{again}") from error


def batched(problems: Sequence[Problem], seed: int, chance: random.Random) -> tuple[Problem, ...]:
    """A third of the runs take one sample a round or waking, or two, where agents have more."""
    size, refresh = chance.choice((0, 0, 0, 0, 1, 2)), chance.randint(1, 5)
    sizes = [len(problem.data.inputs) for problem in problems]
    batches = [Batches(seed, i, m, size, refresh) if 0 < size < m else None for i, m in enumerate(sizes)]
    return tuple(replace(problem, batches=drawn) for problem, drawn in zip(problems, batches, strict=True))


def sizes_of(problems: Sequence[Problem]) -> str:
    """Batches of all agents that have such, in words."""
    drawn = [problem.batches for problem in problems if problem.batches is not None]
    return ", ".join(f"{one.size} of {one.n_samples}" for one in drawn) or "none"
