"""What a peer in rounds makes of what its transport tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from peer.config import Facts
from peer.errors import ConfigError
from peer.messages import Hello
from peer.roster import Roster
from peer.rounds import Rounds
from peer.rounds_mode import RoundsLife
from peer.session import Session
from topology.graphs import Graph
from topology.schedules import Static


def life_of_peer_0(fails: bool) -> tuple[Any, list[tuple[str, int]]]:
    """What `RoundsLife.say` needs of a peer with one neighbor, and what is journaled; whether sending fails."""
    told: list[tuple[str, int]] = []
    rounds = Rounds(0, Static(Graph.of(2, [(0, 1)])), 3, 1.0)
    host = SimpleNamespace(
        say=lambda messages: list(messages) if fails else [],
        event=lambda kind, peer: told.append((kind, peer)),
        transport=SimpleNamespace(reconnect=lambda j: None),
    )
    life = SimpleNamespace(host=host, rounds=rounds, session=Session((1,), Roster(0, "a", 0, {}, 2, 1, 0), rounds))
    life.disconnected = lambda j: RoundsLife.disconnected(life, j)  # type: ignore[arg-type]
    return life, told


@pytest.mark.parametrize(("incarnation", "forgotten", "outdated"), [(1, 7, True), (1, 6, False), (0, 7, False)])
def test_who_was_resumed_and_asks_for_what_is_gone_is_outdated(
    incarnation: int, forgotten: int, outdated: bool
) -> None:
    rounds = Rounds(0, Static(Graph.of(2, [(0, 1)])), 9, 1.0, n=7)
    session = Session((1,), Roster(0, "a", incarnation, {}, 2, 1, 0), rounds)
    session.receive(Hello(1, "b", 0, "ask", 9, (), {}, {1: 1}, 0, forgotten))
    assert (session.outdated == (1, forgotten)) is outdated


@pytest.mark.parametrize(("n", "told"), [(0, [0]), (2, [2]), (3, [])])
def test_an_answer_is_answered_where_what_its_sender_lacks_is_gone(n: int, told: list[int]) -> None:
    rounds = Rounds(0, Static(Graph.of(2, [(0, 1)])), 9, 1.0, n=3)
    session = Session((1,), Roster(0, "a", 0, {}, 2, 1, 0), rounds)
    session.connected(1)
    said = session.receive(Hello(1, "b", 1, "answer", n, (), {}, {1: 1}, 0))
    assert [message.forgotten for _, message in said if isinstance(message, Hello)] == told


def test_neighbors_are_unmet_until_they_are_heard_of() -> None:
    rounds = Rounds(0, Static(Graph.of(3, [(0, 1), (0, 2)])), 9, 1.0)
    session = Session((1, 2), Roster(0, "a", 0, {}, 3, 1, 0), rounds)
    unmet = [session.unmet]
    session.receive(Hello(2, "b", 0, "ask", 0, (), {}, {2: 1}, 0))
    unmet.append(session.unmet)
    session.receive(Hello(1, "c", 0, "news", 0, (), {}, {1: 1}, 0))
    assert [*unmet, session.unmet] == [(1, 2), (1,), ()]


def test_a_shard_that_has_changed_since_it_was_looked_at_is_refused() -> None:
    life = SimpleNamespace(me=1, host=SimpleNamespace(shard=SimpleNamespace(n_samples=4, path="shard.npz")))
    with pytest.raises(ConfigError, match=r"shard\.npz: expected the 5 samples of a moment ago, found 4"):
        RoundsLife._know(life, Facts((3, 5), 2, (2, 1), 3))  # type: ignore[arg-type]


def test_a_connection_that_breaks_is_journaled_once_whoever_sees_it_first() -> None:
    for fails in (True, False):
        life, told = life_of_peer_0(fails)
        messages = life.session.connected(1)
        assert RoundsLife.say(life, messages) is not fails
        life.disconnected(1)  # by the monitor of the socket
        assert told == [("disconnected", 1)]
        assert not life.rounds.is_connected(1)
