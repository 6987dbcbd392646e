"""What a peer without rounds says to whom, in answer to what."""

from __future__ import annotations

import numpy as np
import pytest

from peer.agent import State
from peer.assembly import KNOCK_S, Assembly
from peer.errors import DisagreementError, ProtocolError
from peer.flows import Flows
from peer.membership import Membership
from peer.messages import Bye, Flow, Hello, Message, Outgoing, Share, Standing, View
from peer.pace import PHI_KEPT
from topology import PeerId
from topology.outlets import Outlets

RING = Outlets("static", "ring", directed=True)
SETTINGS = {"seed": "1", "step.alpha": "0.1"}
V = np.array([1.0])


def assembly(me: PeerId, n_agents: int = 3, settings: dict[str, str] = SETTINGS, outlets: Outlets = RING) -> Assembly:
    own = Standing(1, 0, 0, f"life of {me}", n_samples=10, address=f"tcp://here:{me}")
    membership = Membership(me, own, n_agents, departure_s=10.0)
    return Assembly(settings, membership, Flows(me, 0, ()), outlets, n_wakings=2)


def state(n: int = 0) -> State:
    return State(n, V, V, np.array([2.0]), 3.0, 3.0, 0.1)


def say(to: Assembly, messages: Outgoing, now: float = 0.0) -> None:
    for j, message in messages:
        assert j == to.me
        to.receive(message, now)


def three(outlets: Outlets = RING) -> list[Assembly]:
    """Three that know each other, in their first epoch, all connected."""
    peers = [assembly(i, outlets=outlets) for i in range(3)]
    for _ in range(2):
        for one in peers:
            for j in one.receivers:
                peers[j].receive(one.connected(j)[0][1], 0.0)
    for one in peers:
        one.membership.begin(0.0)
        opening = one.opening
        assert opening is not None
        one.open_epoch(opening, state())
    return peers


def test_the_first_words_on_a_connection_hold_the_settings_and_later_ones_do_not() -> None:
    a = assembly(0)
    ((j, view),) = a.connected(1)
    assert j == 1
    assert isinstance(view, View)
    assert view.settings == SETTINGS
    ((_, later),) = a.gossip()
    assert isinstance(later, View)
    assert later.settings == {}


def test_other_settings_are_named_and_nothing_is_learned() -> None:
    a, b = assembly(0), assembly(1, settings={**SETTINGS, "seed": "2"})
    before = a.membership.standings[1]
    with pytest.raises(DisagreementError, match="seed is 2 there, 1 here") as refusal:
        a.receive(b.connected(0)[0][1], 0.0)
    assert (refusal.value.cause, refusal.value.sender) == ("settings", 1)
    assert a.membership.standings[1] == before


@pytest.mark.parametrize(
    "message",
    [Share(1, 0, 0, 0.0, V, V), Hello(1, "a", 0, "ask", 0, (), {}, {1: 3}, 0)],
    ids=["share", "hello"],
)
def test_there_are_no_rounds(message: Message) -> None:
    with pytest.raises(ProtocolError, match="no rounds") as refusal:
        assembly(0).receive(message, 0.0)
    assert refusal.value.cause == "mode"


def test_nobody_speaks_in_the_name_of_this_peer() -> None:
    with pytest.raises(ProtocolError) as refusal:
        assembly(0).receive(Bye(0, ""), 0.0)
    assert refusal.value.cause == "identity"


def test_an_epoch_is_opened_when_all_are_known_and_again_when_they_change() -> None:
    a, b = assembly(0, 2), assembly(1, 2)
    assert a.opening is None  # how many samples peer 1 has is not known
    a.receive(b.connected(0)[0][1], 0.0)
    opening = a.opening
    assert opening is not None
    assert (opening.members, opening.neighbors, opening.n_samples) == ((0, 1), (1,), 20)
    a.open_epoch(opening, state())
    assert a.opening is None
    c = assembly(5, 2)
    a.receive(c.connected(0)[0][1], 0.0)
    assert a.has_news
    following = a.opening
    assert following is not None
    assert following.members == (0, 1, 5)
    assert following.epoch > opening.epoch


def test_who_hears_that_its_number_was_used_already_pushes_with_the_next_one() -> None:
    """As where its folder was put back from an older copy: its flows would be stale to who heard the life before."""
    a, b = assembly(0, 2), assembly(1, 2)
    a.receive(b.connected(0)[0][1], 0.0)
    assert a.opening is not None
    a.open_epoch(a.opening, state())
    a.connected(1)
    earlier = a.membership.standings[0].changed(incarnation=3, instance="an earlier life")
    a.receive(View(1, {}, 0, {0: earlier}), 0.0)
    a.push(0, V, 0.0)
    ((_, flow),) = a.unsent()
    assert isinstance(flow, Flow)
    assert flow.stamp == (4, 1) == (a.membership.standings[0].incarnation, 1)


def test_a_flow_goes_to_whom_it_was_pushed_when_that_can_be_reached() -> None:
    a, b, _ = three()
    a.disconnected(1)
    assert a.push(0, V, 0.0) == ()
    assert a.unsent() == []
    a.connected(1)
    assert a.push(1, V, 0.0) == (1,)
    ((j, flow),) = a.unsent()
    assert j == 1
    assert isinstance(flow, Flow)
    b.receive(flow, 0.0)
    assert b.flows.news == {0}
    assert a.unsent() == []
    with pytest.raises(ProtocolError, match="expected a stamp after"):
        b.receive(flow, 0.0)


def test_what_a_broken_connection_may_have_lost_goes_over_the_next_one() -> None:
    a, _, _ = three()
    a.push(0, V, 0.0)
    ((_, first),) = a.unsent()
    a.disconnected(1)
    assert a.unsent() == []
    view, flow = (message for _, message in a.connected(1))
    assert isinstance(view, View)
    assert isinstance(flow, Flow)
    assert isinstance(first, Flow)
    assert np.array_equal(flow.sums, first.sums)


def test_a_waking_without_news_repeats_the_last_flows() -> None:
    a, _, _ = three(Outlets("static", "ring"))
    a.pace.woke(0.0, 0.0, frozenset({1}))
    assert a.push(0, V, 0.0) == (1, 2)
    assert len(a.unsent()) == 2
    a.pace.woke(0.001, 0.001, frozenset())
    assert a.push(1, V, 0.001) == ()  # neither has answered yet
    assert [j for j, _ in a.unsent()] == [1, 2]


def test_who_has_little_weight_keeps_it() -> None:
    a, _, _ = three()
    n = 0
    while a.flows.phi >= PHI_KEPT:
        assert a.push(n, V, 0.0) == (1,)
        n += 1
    assert a.push(n, V, 0.0) == ()
    assert n == 5


def test_the_lost_are_still_told_and_heard_of() -> None:
    a, _, c = three()
    a.membership.tick(0.0)
    for now in range(1, 12):
        c.membership.tick(float(now))
        say(a, [(0, c.membership.view({}))], float(now))
        lost, _ = a.tick(float(now))
        say(c, [(2, a.membership.view({}))], float(now))
    assert 1 not in a.membership.members
    assert lost == (1,) or 1 not in c.membership.members
    assert a.receivers == {1, 2}  # 2 is the next on the ring now, and 1 would be
    opening = a.opening
    assert opening is not None
    assert opening.neighbors == (2,)


def test_who_is_away_begins_nothing_and_is_not_over() -> None:
    a, _, c = three()
    for now in range(1, 12):
        a.membership.tick(float(now))
    assert a.membership.members == (0,)
    say(c, [(2, a.membership.view({}))], 11.0)
    assert c.membership.members == (0, 2)
    assert (c.opening, c.goes_on) == (None, True)
    say(a, [(0, c.membership.view({}))], 11.0)
    say(c, [(2, a.membership.view({}))], 11.0)
    opening = c.opening
    assert opening is not None
    assert opening.members == a.membership.members


def test_only_news_are_told_at_once_and_all_again_and_again() -> None:
    a, b, _ = three(Outlets("static", "complete"))
    for one in (a, b):
        one.gossip()
        assert one.spread() == [], "nothing is new"
    d = assembly(5, 3)
    a.receive(d.connected(0)[0][1], 0.0)
    told = a.spread()
    assert {j for j, _ in told} == {1, 2}
    for _, message in told:
        assert isinstance(message, View)
        assert message.standings.keys() == {0, 5}, "the news, and who tells them"
    assert not a.has_news
    _, again = a.tick(1.0)
    assert all(isinstance(message, View) and message.standings.keys() == {0, 1, 2, 5} for _, message in again)
    b.receive(told[0][1], 0.0)
    assert b.membership.members == (0, 1, 2, 5)
    assert {j for _, message in b.spread() for j in message.standings} == {1, 5}, "news are passed on"  # type: ignore[union-attr]


def test_of_many_all_is_told_once_a_beat_and_between_what_has_changed() -> None:
    """Of 10 s until a member counts as gone, a beat takes an eighth, five ticks."""
    a, b = assembly(0, 200), assembly(1, 200)
    a.connected(1)
    b.connected(0)

    def told(now: float) -> list[set[PeerId]]:
        return [set(view.standings) for _, view in a.tick(now)[1] if isinstance(view, View)]

    beat, everybody = a.membership.standings[0].beat, set(range(200))
    assert told(0.0) == [everybody]
    assert told(0.25) == [], "nothing has changed"
    a.receive(b.gossip()[0][1], 0.3)
    a.spread()
    b.tick(0.0)
    a.receive(b.gossip()[0][1], 0.4)
    assert told(0.5) == [{0, 1}], "its beat"
    assert told(0.75) == told(1.0) == []
    assert a.membership.standings[0].beat == beat + 1
    assert told(1.25) == [everybody]
    assert a.membership.standings[0].beat == beat + 2


def test_of_few_all_is_told_at_every_tick() -> None:
    a, *_ = three(Outlets("static", "complete"))
    for now in range(4):
        _, messages = a.tick(0.25 * now)
        assert [len(view.standings) for _, view in messages if isinstance(view, View)] == [3, 3]


def test_the_end_is_when_all_know_that_all_are_through() -> None:
    peers = three(Outlets("static", "complete"))
    for one in peers:
        one.gossip()
        one.woke(state().changed(n=1))
    assert not any(one.has_news for one in peers)
    for one in peers:
        one.woke(state().changed(n=2))
        assert one.has_news
    for _ in range(2):
        for one in peers:
            for j, message in one.gossip():
                peers[j].receive(message, 0.0)
        for one in peers:
            assert one.membership.complete
            one.membership.know()
    assert all(one.is_over for one in peers)


def test_a_goodbye_of_one_who_knew_is_enough() -> None:
    a, b, _ = three()
    for one in (a, b):
        one.membership.know()
    assert not b.is_over
    say(b, [(1, message) for j, message in a.part("") if j == 1])
    assert b.is_over


def test_who_leaves_says_why_and_is_a_member_no_more() -> None:
    a, b, _ = three()
    messages = [message for j, message in a.part("the disk is full") if j == 1]
    assert isinstance(messages[-1], Bye)
    say(b, [(1, message) for message in messages])
    assert b.said_bye == {0: "the disk is full"}
    assert b.membership.members == (1, 2)
    opening = b.opening
    assert opening is not None
    assert opening.n_samples == 20


def test_who_has_gone_is_knocked_at_in_turn() -> None:
    """A ring 0 1 2 3 without 1 and 3: neither 0 nor 2 has a neighbor, were all there, that leads to the other."""
    a = assembly(0, 4, outlets=Outlets("static", "ring"))
    assert a.knocks_at(0.0) == ()
    a.membership.receive(View(1, {}, 0, {j: Standing(2) for j in (1, 2, 3)}), 0.0)
    assert a.receivers == {1, 3}
    knocked_at = [a.knocks_at(KNOCK_S * turn) for turn in range(6)]
    assert set(knocked_at) == {(1,), (2,), (3,)}
    assert knocked_at[:3] == knocked_at[3:]
    a.membership.leave()
    assert (0,) not in {a.knocks_at(KNOCK_S * turn) for turn in range(4)}


def kinds(messages: Outgoing) -> list[str]:
    return [f"{type(message).__name__} {j}" for j, message in messages]


def test_on_a_full_link_a_flow_and_a_view_wait_and_who_waited_longer_goes_first() -> None:
    """Else a slow link carries flows only, and its sender is taken for lost; or views only."""
    a, _, _ = three()
    assert kinds(a.tick(1.0)[1]) == ["View 1"]
    a.push(0, V, 1.0)
    a.found_no_room(a.unsent())
    assert a.gossip() == []
    a.push(1, V, 1.0)
    first = a.unsent()
    assert kinds(first) == ["Flow 1", "View 1"]
    a.found_no_room(first[1:])
    assert a.gossip() == []  # it waits already
    a.flows.repeat([1])
    second = a.unsent()
    assert kinds(second) == ["View 1", "Flow 1"]
    a.found_no_room(second)
    assert kinds(a.unsent()) == ["View 1", "Flow 1"]
    assert a.unsent() == []


def test_what_waits_for_a_link_goes_with_it() -> None:
    a, _, _ = three()
    a.found_no_room(a.gossip())
    a.disconnected(1)
    assert a.unsent() == []
    a.found_no_room([(1, a.membership.view({}))])
    assert kinds(a.connected(1)) == ["View 1"]


def test_the_last_words_wait_for_nobody() -> None:
    a, _, _ = three()
    a.found_no_room(a.gossip())
    assert kinds(a.part("interrupted")) == ["View 1", "Bye 1"]


def test_a_resumed_peer_wakes_at_once_whatever_its_clock_shows() -> None:
    """Monotonic clocks begin anywhere."""
    a, _, _ = three()
    resumed = assembly(0)
    resumed.flows.restore(a.flows.snapshot())
    assert resumed.pace.wakes_s(frozenset()) < -1e9
