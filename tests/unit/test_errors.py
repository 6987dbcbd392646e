"""Errors are one line, carry their facts, and belong to whose fault they are."""

from __future__ import annotations

import pytest

from peer.errors import (
    ConfigError,
    DisagreementError,
    NeighborsLate,
    PeerError,
    ProtocolError,
    RemoteError,
    SolveError,
    WireError,
    is_refusal,
    refusal,
)


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        (ConfigError, (PeerError, ValueError)),
        (WireError, (RemoteError, PeerError)),
        (ProtocolError, (RemoteError, PeerError)),
        (DisagreementError, (ProtocolError, RemoteError)),
        (NeighborsLate, (PeerError, TimeoutError)),
        (SolveError, (PeerError, ArithmeticError)),
    ],
)
def test_hierarchy(kind: type[Exception], parents: tuple[type[Exception], ...]) -> None:
    assert all(issubclass(kind, parent) for parent in parents)


def test_ours_are_never_theirs() -> None:
    assert not any(issubclass(kind, RemoteError) for kind in (ConfigError, NeighborsLate, SolveError))
    assert not issubclass(WireError, ProtocolError)
    assert not issubclass(ProtocolError, WireError)


def test_a_setting_is_named() -> None:
    error = ConfigError("step.alpha", "expected 0 < alpha <= 1, found 3")
    assert str(error) == "step.alpha: expected 0 < alpha <= 1, found 3"
    assert (error.key, error.problem) == ("step.alpha", "expected 0 < alpha <= 1, found 3")


@pytest.mark.parametrize(
    ("sender", "n", "text"),
    [
        (None, None, "what"),
        (3, None, "peer 3: what"),
        (0, 0, "peer 0, round 0: what"),
        (None, 7, "round 7: what"),
    ],
)
def test_who_and_when_are_named(sender: int | None, n: int | None, text: str) -> None:
    error = WireError("shape", "what", sender, n)
    assert str(error) == text
    assert (error.cause, error.sender, error.n) == ("shape", sender, n)


def test_late_neighbors_are_named() -> None:
    assert str(NeighborsLate(4, [2], 1.25)) == "round 4: peer 2 did not come within 1.2 s"
    error = NeighborsLate(4, [2, 5], 60.0)
    assert str(error) == "round 4: peers 2, 5 did not come within 60.0 s"
    assert (error.n, error.missing, error.waited_s) == (4, (2, 5), 60.0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "a/b"), "cannot use a/b: No space left on device"),
        (OSError(24, "Too many open files"), "the host refuses: Too many open files"),
        (OSError("something"), "the host refuses: something"),
        (MemoryError("Unable to allocate 1 TiB"), "out of memory: Unable to allocate 1 TiB"),
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "the host refuses: can't start new thread"),
    ],
)
def test_what_the_host_refuses_is_one_line(error: Exception, line: str) -> None:
    assert is_refusal(error)
    assert refusal(error) == line


def test_a_bug_is_no_refusal() -> None:
    assert not is_refusal(RuntimeError("dictionary changed size during iteration"))
    assert not is_refusal(KeyError("x"))
