"""What peers publish as they go, on this host or others: `[run] publish`. What was before is not told again."""

from __future__ import annotations

import tomllib
from typing import Final, final

from peer import settings
from peer.errors import ConfigError
from peer.settings import MAX_PEERS, Experiment
from peer.transport import Keys, Subscription
from peer.watching.story import LOG, METRICS, Line

MOST_LINES: Final = 5_000
"""Of one peer that are taken at a time."""


@final
class Published:
    """What the peers of a run tell who listens.

    Peer 0 is asked first: what it says of the experiment says how many others there are.

    Parameters
    ----------
    pattern : str
        As `[run] publish` has it: peer i is at the port plus i.
    keys : Keys or None
        Needed for addresses that are not of the loopback.

    Raises
    ------
    ConfigError
        It is no address, or there are no keys for it.
    """

    lasts = False

    def __init__(self, pattern: str, keys: Keys | None) -> None:
        self._pattern = pattern
        self._subscription = Subscription(keys)
        self._experiment: Experiment | None = None
        try:
            self._subscription.connect(0, settings.published_at(pattern, 0, "watch"))
        except ConfigError:
            self._subscription.close()
            raise

    def experiment(self) -> Experiment | None:
        """What is run; None until peer 0 has said so."""
        return self._experiment

    def look(self) -> list[Line]:
        """Lines that have come since the last look; what is none is left out."""
        found = []
        for frames in self._subscription.receive(MOST_LINES):
            if len(frames) != 3 or not frames[1].isdigit() or len(frames[1]) > 9 or int(frames[1]) >= MAX_PEERS:
                continue
            kind, peer, text = frames[0].decode("ascii", "replace"), int(frames[1]), frames[2]
            if kind in (METRICS, LOG):
                found.append(Line(peer, kind, text))
            elif self._experiment is None and peer == 0:
                self._begin(text)
        return found

    def _begin(self, text: bytes) -> None:
        """Now that it is known what is run, listen to all others too."""
        try:
            experiment = settings.from_tree(tomllib.loads(text.decode()))
            for peer in range(1, experiment.peers):
                self._subscription.connect(peer, settings.published_at(self._pattern, peer))
        except (ConfigError, ValueError):  # it is not a peer, or one of another version
            return
        self._experiment = experiment

    def close(self) -> None:
        """Listen no more."""
        self._subscription.close()
