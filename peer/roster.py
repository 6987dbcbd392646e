"""Before round 0: who is here, with the same settings, and how many samples all have together.

Peers know only their neighbors. Each says what it knows, its own sample count at first, and
passes on what it learns; so after as many exchanges as the graph's diameter everybody knows
everybody's count, and with it M. A count goes over each connection once, so that all of them
together are as many numbers as there are peers times connections. No network, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import final

from peer.errors import DisagreementError
from peer.messages import NOTHING_FORGOTTEN, Hello, Part, Purpose
from topology import PeerId


@final
@dataclass(eq=False)
class Roster:
    """What one peer knows of all.

    Parameters
    ----------
    me : int
        This peer.
    instance : str
        Drawn anew by every process.
    incarnation : int
        How often this peer was started before, to be resumed.
    settings : mapping
        What all peers must share, as text.
    n_agents : int
        Number of peers I.
    n_samples : int
        Samples of this peer.
    n_classes : int
        Largest label of this peer plus one; 0 where there are no labels.
    """

    me: PeerId
    instance: str
    incarnation: int
    settings: Mapping[str, str]
    n_agents: int
    n_samples: int
    n_classes: int
    counts: dict[PeerId, int] = field(default_factory=dict, init=False)
    began: bool = field(default=False, init=False)
    _processes: dict[PeerId, tuple[int, str]] = field(default_factory=dict, init=False)
    _told: dict[PeerId, int] = field(default_factory=dict, init=False)  # of `counts`, in the order of their coming

    def __post_init__(self) -> None:
        self.counts[self.me] = self.n_samples

    def restore(self, n_samples: Mapping[PeerId, int], n_classes: int) -> None:
        """Know what an earlier process of this peer knew, or the one that started it: it need not ask anybody."""
        self.counts.update(n_samples)
        self.n_classes = max(self.n_classes, n_classes)

    def hello(
        self,
        purpose: Purpose,
        n: int,
        held: tuple[tuple[int, Part], ...] = (),
        forgotten: int = NOTHING_FORGOTTEN,
        to: PeerId | None = None,
    ) -> Hello:
        """What to say now, in round n, holding these pieces of the receiver's shares, and what of the own is gone.

        A connection to `to` begins with an "ask", which tells all; what follows over it, the counts that came since.
        """
        told = 0 if to is None or purpose == "ask" else self._told.get(to, 0)
        settings, counts = {} if purpose == "news" else self.settings, dict(islice(self.counts.items(), told, None))
        if to is not None:
            self._told[to] = len(self.counts)
        process = self.me, self.instance, self.incarnation
        return Hello(*process, purpose, n, held, settings, counts, self.n_classes, forgotten)

    def receive(self, hello: Hello) -> bool:
        """Learn from a Hello; whether there was news in it.

        Raises
        ------
        DisagreementError
            Other settings ("settings", names them), another sample count of a peer than
            known ("counts"), or, after the start, a second process with a peer's id that is
            not its resumption ("twin").
        """
        j = hello.sender
        process = (hello.incarnation, hello.instance)
        known = self._processes.get(j, process)
        if self.began and process != known and hello.incarnation <= known[0]:
            raise DisagreementError("twin", "a second process with this id, which does not resume the first", j)
        other = disagreement(self.settings, hello.settings) if hello.purpose != "news" else ""
        if other:
            raise DisagreementError("settings", other, j)
        for peer, count in hello.n_samples.items():
            if self.counts.get(peer, count) != count:
                here = self.counts[peer]
                raise DisagreementError("counts", f"peer {peer} has {count} samples there, {here} here", j)
        news = not hello.n_samples.keys() <= self.counts.keys() or hello.n_classes > self.n_classes
        self.counts.update(hello.n_samples)
        self.n_classes = max(self.n_classes, hello.n_classes)
        self._processes[j] = process
        return news

    @property
    def missing(self) -> tuple[PeerId, ...]:
        """Peers whose sample count is not known yet, ascending."""
        if len(self.counts) == self.n_agents:  # asked after every message
            return ()
        return tuple(j for j in range(self.n_agents) if j not in self.counts)

    @property
    def n_samples_total(self) -> int:
        """M, once nobody is missing."""
        return sum(self.counts.values())


def disagreement(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What another peer has set otherwise, in words; empty where nothing."""
    other = [key for key in sorted(mine.keys() | theirs.keys()) if mine.get(key) != theirs.get(key)]
    named = "; ".join(
        f"{_short(key)} is {_short(theirs.get(key, 'absent'))} there, {_short(mine.get(key, 'absent'))} here"
        for key in other[:4]
    )
    more = f"; and {len(other) - 4} more" if len(other) > 4 else ""
    return f"it runs with other settings: {named}{more}" if other else ""


def _short(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."
