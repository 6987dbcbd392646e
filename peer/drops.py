"""What was dropped, counted by cause and by sender."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final, final

from peer.errors import RemoteError
from topology import PeerId

UNKNOWN: Final = "unknown"
"""Sender of what comes from strangers, or from nobody in particular."""

MAX_KINDS: Final = 10_000
"""Pairs of a cause and a sender that are counted apart; those beyond count as of unknown senders. Keys bound the
senders, and causes are constants of this program; without keys anybody on this host can say to be anybody."""


@final
class Drops:
    """How often something was dropped for which cause, and whose it was."""

    def __init__(self) -> None:
        self._kinds: Counter[tuple[str, PeerId | None]] = Counter()

    def add(self, error: RemoteError) -> bool:
        """Count what was dropped; whether it is the first of its cause from its sender."""
        kind = error.cause, error.sender
        if len(self._kinds) >= MAX_KINDS and kind not in self._kinds:
            kind = error.cause, None
        self._kinds[kind] += 1
        return self._kinds[kind] == 1

    @property
    def by_cause(self) -> dict[str, int]:
        """Number of each cause."""
        causes: Counter[str] = Counter()
        for (cause, _), n in self._kinds.items():
            causes[cause] += n
        return dict(causes)

    @property
    def by_sender(self) -> dict[str, dict[str, int]]:
        """Number of each cause, for each sender, or UNKNOWN."""
        senders: dict[str, dict[str, int]] = {}
        for (cause, sender), n in self._kinds.items():
            senders.setdefault(UNKNOWN if sender is None else str(sender), {})[cause] = n
        return senders

    @property
    def numbers(self) -> Mapping[str, object]:
        """What is written down: `dropped`, by cause, and, if there is anything, `dropped_by`, by sender too."""
        if not self._kinds:  # as in nearly every round
            return {"dropped": {}}
        senders = self.by_sender
        return {"dropped": self.by_cause} | ({"dropped_by": senders} if senders else {})
