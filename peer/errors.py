"""Everything that can go wrong, by whose fault it is.

::

    PeerError
    |- ConfigError(ValueError)       ours, before the start: key, value, what is accepted
    |- RemoteError(sender, round)    theirs
    |  |- WireError                  bytes that are no valid message
    |  `- ProtocolError              a valid message that is not allowed now
    |     `- DisagreementError       of a peer with which no run is possible
    |- NeighborsLate(TimeoutError)   round, missing, waited_s
    |- NeighborLeft                  a neighbor gave up for good
    `- SolveError(ArithmeticError)   nan/inf; "iterations used up" is a result, not an error

`decode` raises only WireError, `receive` only ProtocolError; anything else is our bug and
stops the peer. Policy lives in `peer.process` and in the rooms that it names: the host, and the lives.
"""

from __future__ import annotations

from collections.abc import Sequence

from topology import PeerId

DONE, BAD_INPUT, LOST, BROKEN, INTERRUPTED = 0, 2, 3, 4, 130
"""Exit codes; 2 is for what the host refuses, too."""


class PeerError(Exception):
    """An error of this system; its text is one line for the user."""


class ConfigError(PeerError, ValueError):
    """A setting or input file that cannot be used.

    Parameters
    ----------
    key : str
        The setting ("step.alpha") or file it is about.
    problem : str
        What was expected and what was found.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(key, problem)  # both, so that it can be sent from one process to another
        self.key = key
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}"


class RemoteError(PeerError):
    """Something another peer, or a stranger, did.

    Parameters
    ----------
    cause : str
        Short constant name of what is wrong ("stale", "shape"), by which it is counted.
    problem : str
        What was expected and what was found.
    sender : int or None
        Peer it came from, None where that is not known.
    n : int or None
        Round it is about.
    """

    def __init__(self, cause: str, problem: str, sender: PeerId | None = None, n: int | None = None) -> None:
        where = [f"peer {sender}"] * (sender is not None) + [f"round {n}"] * (n is not None)
        super().__init__(", ".join(where) + (": " if where else "") + problem)
        self.cause = cause
        self.sender = sender
        self.n = n


class WireError(RemoteError):
    """Bytes that are no valid message."""


class ProtocolError(RemoteError):
    """A valid message that is not allowed now."""


class DisagreementError(ProtocolError):
    """Two peers that cannot train together: other settings, or the same id twice.

    It stops one that has not begun; one that has drops the message.
    """


class NeighborsLate(PeerError, TimeoutError):  # noqa: N818  (the name is part of the interface)
    """Neighbors that did not come within `patience_s`.

    Parameters
    ----------
    n : int
        Round that waits.
    missing : sequence of int
        Peers it waits for.
    waited_s : float
        Seconds waited.
    where : str
        What waits, in words; the round where it is empty.
    """

    def __init__(self, n: int, missing: Sequence[PeerId], waited_s: float, where: str = "") -> None:
        peers = ("peer " if len(missing) == 1 else "peers ") + ", ".join(map(str, missing))
        super().__init__(f"{where or f'round {n}'}: {peers} did not come within {waited_s:.1f} s")
        self.n = n
        self.missing = tuple(missing)
        self.waited_s = waited_s


class NeighborLeft(PeerError):  # noqa: N818  (a fact about them, not our error)
    """A neighbor gave up for good."""


class SolveError(PeerError, ArithmeticError):
    """The numbers broke down: nan or infinity where a finite number has to be."""


def refusal(error: BaseException) -> str:
    """What the host refuses, a file, memory, descriptors or a thread, in one line."""
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}"
    return f"the host refuses: {(isinstance(error, OSError) and error.strerror) or error}"


def is_refusal(error: BaseException) -> bool:
    """Whether an error is a refusal of the host; Python has no class for that of a thread."""
    return isinstance(error, OSError | MemoryError) or str(error) == "can't start new thread"
