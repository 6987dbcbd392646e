"""Messages that are none, or not now, change nothing: a part of what `python -m tests.fuzz` throws."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import ProtocolError
from peer.flows import Flows
from peer.messages import Flow, Share
from peer.rounds import Rounds
from tests import fuzz

COUNT = 4_000


@pytest.mark.parametrize("seed", range(5))
def test_twenty_thousand_messages(seed: int) -> None:
    came_to = fuzz.throw(seed, COUNT)
    assert came_to.total() == COUNT
    for kind in ("Share", "Flow", "Hello", "View", "Bye"):
        assert came_to[f"{kind}: taken"] > 0, came_to
    for cause in ("dtype", "frames", "header", "identity", "nonfinite", "run", "shape", "size", "version"):
        assert came_to[f"no message: {cause}"] > 0, came_to
    refused = {what for what in came_to if not what.startswith("no message") and not what.endswith("taken")}
    assert len(refused) >= 10, came_to


@settings(max_examples=300)
@given(st.randoms(use_true_random=False))
def test_whatever_messages_chance_brings(chance: random.Random) -> None:
    fuzz.throw(chance, 8)


def test_one_seed_throws_the_same_messages() -> None:
    one, other = (fuzz.Author(7) for _ in range(2))
    assert [one.frames(3, fuzz.FORMS[0]) for _ in range(500)] == [other.frames(3, fuzz.FORMS[0]) for _ in range(500)]


@pytest.mark.parametrize("fault", ["changes", "blames", "breaks", "lets in"])
def test_what_it_is_looking_for_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a fault of each kind; the message and the way back to it are named."""
    receive, take = Rounds.receive, Flows.receive

    def receive_wrongly(rounds: Rounds, share: Share) -> None:
        try:
            receive(rounds, share)
        except ProtocolError as error:
            if fault == "changes":
                rounds._floors[share.sender] = 10**9
            if fault == "blames":
                raise ProtocolError(error.cause, "somebody else", 2) from error
            if fault == "breaks":
                raise KeyError(share.n) from error
            raise

    def take_wrongly(flows: Flows, flow: Flow) -> None:
        flows.neighbors = (1, 2, 3, 4)
        take(flows, flow)

    monkeypatch.setattr(Rounds, "receive", receive_wrongly)
    if fault == "lets in":
        monkeypatch.setattr(Flows, "receive", take_wrongly)
    with pytest.raises(AssertionError, match=r"message \d+ of seed 0.*\n.*\npython -m tests\.fuzz --seed 0 --show \d+"):
        fuzz.throw(0, COUNT)
