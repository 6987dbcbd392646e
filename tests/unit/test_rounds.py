"""The round machine, one rule at a time; whole runs are in tests/simulation."""

from __future__ import annotations

import numpy as np
import pytest

from peer.errors import NeighborsLate, ProtocolError
from peer.messages import Hello, Part, Share
from peer.rounds import MEETINGS, Rounds
from topology.graphs import Graph, ring
from topology.schedules import Replay, Static

V = np.array([1.0, 2.0])
PAIR = Static(Graph.of(2, [(0, 1)]))
SOMETIMES = Replay(2, (Graph.of(2, [(0, 1)]), Graph.of(2, [])))
"""The two meet in even rounds only."""


def share(j: int, n: int, *, floor: int = 0, parts: str = "yz") -> Share:
    return Share(j, n, floor, 0.5, V if "y" in parts else None, V if "z" in parts else None)


def ask(j: int, n: int, *held: tuple[int, Part]) -> Hello:
    return Hello(j, "process", 0, "ask", n, held, {}, {j: 1}, 0)


def machine(schedule: Static | Replay = PAIR, *, n_rounds: int = 10, catch_up: int = 0, n: int = 0) -> Rounds:
    rounds = Rounds(0, schedule, n_rounds, 5.0, catch_up, n=n, floor=n)
    rounds.begin()
    return rounds


def cause(rounds: Rounds, piece: Share) -> str:
    held = {j: rounds.held_of(j) for j in range(4)}
    with pytest.raises(ProtocolError) as refusal:
        rounds.receive(piece)
    assert {j: rounds.held_of(j) for j in range(4)} == held, "a refusal changes nothing"
    assert (refusal.value.sender, refusal.value.n) == (piece.sender, piece.n)
    return refusal.value.cause


def through(rounds: Rounds, *, floor: int = 0) -> None:
    """One round in which the neighbor is on time."""
    rounds.begin()
    rounds.offer(0.0, V, V)
    for j in rounds.missing:
        rounds.receive(share(j, rounds.n, floor=floor))
    rounds.advance()


def test_a_round_is_over_when_the_shares_of_all_neighbors_are_whole() -> None:
    rounds = machine(Static(ring(4)))
    assert list(rounds.missing) == [1, 3]
    rounds.receive(share(3, 0, parts="z"))
    rounds.receive(share(1, 0))
    assert list(rounds.missing) == [3]
    with pytest.raises(ValueError, match=r"\(3,\) are missing"):
        rounds.advance()
    rounds.receive(share(3, 0, parts="y"))
    assert not rounds.missing
    shares = rounds.advance()
    assert sorted(shares) == [1, 3]
    assert shares[3].y is V
    assert shares[3].z is V
    assert rounds.n == 1
    assert rounds.held_of(1) == rounds.held_of(3) == ()


def test_a_round_without_neighbors_is_over_at_once() -> None:
    rounds = machine(SOMETIMES, n=1)
    assert not rounds.missing
    assert rounds.advance() == {}
    assert rounds.n == 2


def test_shares_of_the_past_are_refused() -> None:
    rounds = machine()
    through(rounds)
    assert cause(rounds, share(1, 0)) == "stale"


def test_shares_of_strangers_and_of_rounds_without_meeting_are_refused() -> None:
    rounds = machine(Static(ring(4)))
    assert cause(rounds, share(2, 0)) == "neighbor"
    assert cause(rounds, share(0, 0)) == "neighbor"
    assert cause(machine(SOMETIMES), share(1, 1)) == "neighbor"
    assert cause(machine(n_rounds=3), share(1, 3)) == "neighbor"


def test_a_piece_comes_once() -> None:
    rounds = machine()
    rounds.receive(share(1, 0, parts="y"))
    assert cause(rounds, share(1, 0, parts="y")) == "duplicate"
    rounds.receive(share(1, 0))  # the whole share, sent again, brings what is missing
    for parts in ("y", "z", "yz"):
        assert cause(rounds, share(1, 0, parts=parts)) == "duplicate"
    assert rounds.held_of(1) == ((0, "y"), (0, "z"))


@pytest.mark.parametrize("catch_up", [0, 1, 5])
def test_shares_ahead_are_held_up_to_a_limit(catch_up: int) -> None:
    rounds = machine(catch_up=catch_up)
    for n in range(MEETINGS + catch_up):
        rounds.receive(share(1, n))
    assert cause(rounds, share(1, MEETINGS + catch_up)) == "ahead"
    through(rounds)
    rounds.receive(share(1, MEETINGS + catch_up))


@pytest.mark.parametrize("catch_up", [0, 1, 5])
def test_there_is_always_room_for_the_current_round(catch_up: int) -> None:
    rounds = machine(catch_up=catch_up)
    for n in range(1, MEETINGS + catch_up):
        rounds.receive(share(1, n))
    assert cause(rounds, share(1, MEETINGS + catch_up)) == "ahead"
    rounds.receive(share(1, 0))
    assert not rounds.missing


def test_who_is_late_is_named() -> None:
    rounds = machine(Static(ring(4)))
    rounds.wait_from(100.0)
    assert rounds.deadline_s == 105.0
    rounds.receive(share(1, 0))
    rounds.check_late(104.9)
    with pytest.raises(NeighborsLate) as late:
        rounds.check_late(105.0)
    assert (late.value.n, late.value.missing, late.value.waited_s) == (0, (3,), 5.0)
    rounds.receive(share(3, 0))
    rounds.check_late(1000.0)


def test_shares_go_to_connected_neighbors_of_the_round() -> None:
    rounds = machine(Static(ring(4)))
    rounds.connected(1)
    rounds.connected(2)
    sent = rounds.offer(0.25, V, None)
    assert [(j, piece.y is V, piece.z, piece.objective) for j, piece in sent] == [(1, True, None, 0.25)]
    rounds.connected(3)
    sent = rounds.offer(0.25, None, V)
    assert [(j, piece.y, piece.z is V) for j, piece in sent] == [(1, None, True), (3, None, True)]
    (kept,) = rounds.kept()
    assert kept.y is V
    assert kept.z is V


def test_nothing_is_sent_over_a_broken_connection() -> None:
    rounds = machine()
    rounds.connected(1)
    rounds.disconnected(1)
    assert rounds.offer(0.0, V, V) == []
    assert rounds.owed(ask(1, 0)) == []
    assert [piece.n for piece in rounds.kept()] == [0]


def test_a_broken_connection_owes_what_the_neighbor_lacks() -> None:
    rounds = machine()
    rounds.connected(1)
    rounds.offer(0.0, V, V)
    assert rounds.owed(ask(1, 0)) == [], "it is on its way"
    rounds.disconnected(1)
    assert rounds.owed(ask(1, 0)) == [], "nothing can be sent"
    rounds.connected(1)
    (owed,) = rounds.owed(ask(1, 0, (0, "y")))
    assert owed.y is None
    assert owed.z is V
    assert rounds.owed(ask(1, 0, (0, "y"))) == [], "it is on its way"
    rounds.connected(1)
    assert rounds.owed(ask(1, 1)) == [], "it is not needed any more"
    assert rounds.owed(ask(1, 0, (0, "y"), (0, "z"))) == []
    (owed,) = rounds.owed(ask(1, 0))
    assert owed.y is V
    assert owed.z is V


def test_what_is_owed_comes_in_order_with_the_floor_of_now() -> None:
    rounds = machine(catch_up=3)
    rounds.connected(1)
    for _ in range(3):
        through(rounds)
    rounds.floor = 2
    rounds.connected(1)
    assert [(piece.n, piece.floor) for piece in rounds.owed(ask(1, 1))] == [(1, 2), (2, 2)]


def test_a_piece_that_came_over_an_older_connection_is_not_sent_with_the_next_one() -> None:
    """The y got lost with the connection; the new one carries z first, and then what is owed."""
    rounds = machine()
    rounds.connected(1)
    rounds.offer(0.0, V, None)
    rounds.disconnected(1)
    rounds.connected(1)
    ((_, piece),) = rounds.offer(0.0, None, V)
    assert piece.y is None
    (owed,) = rounds.owed(ask(1, 0))
    assert owed.y is V
    assert owed.z is None


def test_shares_are_kept_until_all_that_may_ask_said_they_will_not() -> None:
    rounds = machine(Static(ring(4)), catch_up=10)
    for n in range(3):
        rounds.begin()
        rounds.offer(0.0, V, V)
        rounds.receive(share(1, n, floor=n))
        rounds.receive(share(3, n))
        rounds.advance()
    assert [piece.n for piece in rounds.kept()] == [0, 1, 2], "peer 3 may ask for all of them"
    rounds.receive(share(3, 3, floor=1))
    assert [piece.n for piece in rounds.kept()] == [1, 2]
    rounds.receive(share(3, 4, floor=9))
    assert [piece.n for piece in rounds.kept()] == [2], "peer 1 may ask for round 2"


def test_a_floor_that_came_early_counts_when_the_round_is_over() -> None:
    """A resumed peer gets the shares of several rounds at once; their floor holds for all of them."""
    rounds = machine(catch_up=3)
    for n in range(4):
        rounds.receive(share(1, n, floor=4))
    for n in range(4):
        rounds.begin()
        rounds.offer(0.0, V, V)
        rounds.advance()
        assert rounds.kept() == [], f"round {n}"


def test_floors_do_not_fall() -> None:
    rounds = machine(catch_up=3)
    through(rounds, floor=3)
    through(rounds, floor=0)
    assert rounds.kept() == []


def test_shares_of_a_checkpoint_are_owed_again() -> None:
    first = machine(catch_up=2)
    for _ in range(2):
        through(first)
    again = machine(catch_up=2, n=2)
    again.keep(first.kept())
    again.connected(1)
    assert [piece.n for piece in again.owed(ask(1, 0))] == [0, 1]


def test_what_a_neighbor_had_got_is_forgotten_and_told_to_one_that_asks_again() -> None:
    rounds = machine(SOMETIMES, catch_up=3)
    for n in range(5):
        rounds.begin()
        rounds.offer(0.0, V, V)
        if n % 2 == 0:
            rounds.receive(share(1, n, floor=n))
        rounds.advance()
    assert [piece.n for piece in rounds.kept()] == [4]
    assert [rounds.forgotten(1, n) for n in range(6)] == [0, 2, 2, -1, -1, -1], "the two meet in even rounds"


def test_nothing_is_kept_of_rounds_without_neighbors() -> None:
    rounds = machine(SOMETIMES, n=1)
    assert rounds.offer(0.0, V, V) == []
    assert rounds.kept() == []


def test_a_refused_share_is_missing_again() -> None:
    rounds = machine()
    rounds.receive(share(1, 0))
    assert rounds.shares().keys() == {1}
    rounds.refuse(1)
    assert rounds.missing == (1,)
    with pytest.raises(ValueError, match="missing"):
        rounds.advance()
    rounds.receive(share(1, 0))
    rounds.advance()
    assert rounds.n == 1
