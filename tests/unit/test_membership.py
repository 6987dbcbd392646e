"""Who takes part: views merge to the same whatever comes when; the lost go, the living return."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import DisagreementError
from peer.membership import ASLEEP_S, CLASHES, Membership
from peer.messages import Standing, View
from topology import PeerId

DEPARTURE_S = 10.0


def peer(me: PeerId, n_agents: int = 3, incarnation: int = 0, instance: str = "", fresh: bool = True) -> Membership:
    own = Standing(1, incarnation, 0, instance or f"life {incarnation} of {me}", n_samples=10 + me, address=f"at {me}")
    return Membership(me, own, n_agents, DEPARTURE_S, fresh=fresh)


def tell(listener: Membership, speaker: Membership, now: float = 0.0) -> bool:
    return bool(listener.receive(speaker.view({}), now))


def met(*peers: Membership, now: float = 0.0) -> None:
    """All hear all, and begin."""
    for _ in range(2):
        for listener in peers:
            for speaker in peers:
                if speaker is not listener:
                    tell(listener, speaker, now)
    for one in peers:
        one.begin(now)


def one_view(*peers: Membership) -> None:
    assert len({one.epoch for one in peers}) == 1
    assert len({one.members for one in peers}) == 1


# ---- views merge ---------------------------------------------------------------------------


standings = st.builds(
    Standing,
    generation=st.integers(1, 4),
    incarnation=st.integers(-1, 2),
    beat=st.integers(0, 3),
    instance=st.sampled_from(("a", "b")),
    n_samples=st.integers(0, 2),
)
views = st.builds(
    View,
    sender=st.integers(1, 3),
    settings=st.just({}),
    n_classes=st.integers(0, 3),
    standings=st.dictionaries(st.integers(1, 3), standings, max_size=3),
)


@given(st.lists(views, min_size=1, max_size=4))
def test_the_order_and_number_of_views_do_not_matter(heard: list[View]) -> None:
    # of two standings that are as new, no peer makes a second one; here the strategy may, and the number of
    # samples then tells them apart without making one newer
    found = set()
    for order in permutations(heard):
        membership = peer(0)
        for view in (*order, order[0]):
            membership.receive(view, 0.0)
        ages = tuple((j, standing.age) for j, standing in sorted(membership.standings.items()))
        found.add((membership.epoch, membership.members, ages))
    assert len(found) == 1


@given(st.lists(views, max_size=6))
def test_an_epoch_only_grows_and_tells_views_apart(heard: list[View]) -> None:
    membership = peer(0)
    seen: dict[int, dict[PeerId, int]] = {}
    for view in heard:
        before, generations = membership.epoch, {j: s.generation for j, s in membership.standings.items()}
        membership.receive(view, 0.0)
        after = {j: s.generation for j, s in membership.standings.items()}
        if after == generations:
            assert membership.epoch == before
        else:
            assert membership.epoch > before
        seen[membership.epoch] = after
    assert all(sum(after.values()) == epoch >> 20 for epoch, after in seen.items())


def test_views_as_long_but_different_are_different_epochs() -> None:
    a, b = peer(0), peer(0)
    a.receive(View(1, {}, 0, {1: Standing(2)}), 0.0)
    b.receive(View(1, {}, 0, {2: Standing(2)}), 0.0)
    assert a.epoch != b.epoch
    tell(a, b)
    assert a.epoch > max(b.epoch, peer(0).epoch)


# ---- the beginning -------------------------------------------------------------------------


def test_initial_members_are_in_one_epoch_before_they_have_heard_anything() -> None:
    one_view(peer(0), peer(1), peer(2))
    assert peer(0).missing == (1, 2)


def test_m_and_labels_are_those_of_all_and_no_later_word_changes_the_labels() -> None:
    a, b = peer(0, 2), peer(1, 2)
    b.n_classes = 7
    assert tell(a, b)
    assert a.missing == ()
    assert a.n_samples_total == 21
    assert a.n_classes == 7
    a.begin(0.0)
    a.receive(b.view({}).changed(n_classes=9), 1.0)
    assert a.n_classes == 7


def test_a_newcomer_opens_an_epoch() -> None:
    a, b, c = peer(0, 2), peer(1, 2), peer(5, 2)
    met(a, b)
    before = a.epoch
    assert tell(a, c)
    tell(b, a)
    tell(c, b)
    one_view(a, b, c)
    assert a.members == (0, 1, 5)
    assert a.epoch > before
    assert c.n_samples_total == a.n_samples_total == 10 + 11 + 15


# ---- loss and return -----------------------------------------------------------------------


def test_a_member_without_progress_is_lost_and_not_before() -> None:
    a, b, c = peer(0), peer(1), peer(2)
    met(a, b, c)
    for now in range(1, 20):
        tell(a, b, float(now))
        lost = a.tick(float(now))
        assert lost == ((2,) if now == 11 else ())
        assert a.members == ((0, 1, 2) if now <= DEPARTURE_S else (0, 1))
        b.tick(float(now))


def test_old_news_of_a_member_are_no_progress() -> None:
    a, b, c = peer(0), peer(1), peer(2)
    met(a, b, c)
    for now in range(1, 12):
        tell(a, b, float(now))  # what b says of c is always the same
        lost = a.tick(float(now))
        b.tick(float(now))
    assert lost == (2,)


def test_progress_is_heard_through_others() -> None:
    a, b, c = peer(0), peer(1), peer(2)
    met(a, b, c)
    for now in range(1, 30):
        for one in (b, c):
            one.tick(float(now))
        tell(b, c, float(now))
        tell(a, b, float(now))
        assert a.tick(float(now)) == ()


def test_a_peer_that_computes_for_ever_makes_no_progress() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    for now in range(1, 12):
        b.tick(float(now), progressing=False)
        tell(a, b, float(now))
        lost = a.tick(float(now))
        tell(b, a, float(now))
    assert lost == (1,)


def test_who_slept_blames_nobody() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    a.tick(1.0)
    assert a.tick(1.0 + 0.9 * DEPARTURE_S) == ()
    awake_s = 1.0 + 0.9 * DEPARTURE_S
    for half in range(1, 30):
        lost = a.tick(awake_s + half * ASLEEP_S / 2)
        assert (lost == (1,)) == (half * ASLEEP_S / 2 + 1.0 == DEPARTURE_S + 1.0)


def test_nobody_is_lost_before_the_beginning_or_when_all_is_done() -> None:
    a, b = peer(0, 2), peer(1, 2)
    a.tick(0.0)
    assert all(a.tick(float(now)) == () for now in range(1, 30))
    met(a, b)
    for one in (a, b):
        one.woke(5, one.epoch)
    met(a, b)
    assert a.complete
    assert all(a.tick(30.0 + now) == () for now in range(1, 30))


def test_who_was_lost_and_lives_returns_and_the_others_hear_of_it() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    for now in range(1, 13):
        a.tick(float(now))
    assert a.members == (0,)
    assert tell(b, a)
    assert b.members == (0, 1)
    assert b.standings[1].generation == 3
    tell(a, b)
    one_view(a, b)


def lose(a: Membership, others: tuple[Membership, ...] = (), until_s: int = 12) -> None:
    """Ticks of one peer, and of those that it hears, until the rest counts as gone."""
    for now in range(1, until_s + 1):
        for one in others:
            one.tick(float(now))
            tell(a, one, float(now))
        a.tick(float(now))


def test_who_finds_itself_gone_loses_nobody_until_somebody_has_heard_of_its_return() -> None:
    """The others may be done without it: words of theirs from before do not tell."""
    a, b, c = peer(0), peer(1), peer(2)
    met(a, b, c)
    lose(a, (b,))
    assert a.members == (0, 1)
    before = a.view({})
    a.tick(13.0)
    assert tell(c, a, 13.0)
    assert (c.members, c.away_since_s) == ((0, 1, 2), 13.0)
    c.receive(before, 13.5)
    c.receive(a.view({}), 13.5)
    assert c.away_since_s == 13.0
    assert all(c.tick(13.0 + half) == () for half in range(1, 50))
    assert tell(a, c, 63.0)
    tell(c, a, 63.0)
    assert c.away_since_s is None
    one_view(a, c)
    assert all(c.tick(63.0 + now) == () for now in range(1, int(DEPARTURE_S) + 1))
    assert c.tick(64.0 + DEPARTURE_S) == (0, 1), "from then on they can be lost"


def test_who_slept_for_long_is_away_also_where_nothing_says_that_it_is_gone() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    old = a.view({})
    b.tick(1.0)
    b.tick(1.0 + DEPARTURE_S)
    assert b.away_since_s is None
    tell(a, b)
    b.tick(12.0 + 2 * DEPARTURE_S)
    assert b.away_since_s == 12.0 + 2 * DEPARTURE_S
    for view in (old, a.view({})):
        b.receive(view, 33.0)
        assert b.away_since_s is not None, "a has not heard of it since"
    tell(a, b, 33.0)
    tell(b, a, 33.0)
    assert b.away_since_s is None
    assert b.members == (0, 1)


def test_who_sleeps_again_waits_anew() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    for now in (1.0, 41.0, 42.0, 42.0 + ASLEEP_S + 1.0):
        b.tick(now)
    assert b.away_since_s == 41.0 + ASLEEP_S + 1.0, "the time of a sleep does not count"
    b.tick(100.0)
    assert b.away_since_s == 100.0


@pytest.mark.parametrize("end", ["complete", "alone", "left"])
def test_nobody_is_away_where_all_is_done_or_nobody_else_is_there(end: str) -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    b.tick(1.0)
    if end == "complete":
        for one in (a, b):
            one.woke(5, one.epoch)
        met(a, b)
    elif end == "alone":
        for now in range(2, 14):
            b.tick(float(now))
        assert b.members == (1,)
    b.tick(100.0)
    if end == "left":
        assert b.away_since_s is not None
        a.leave()
        tell(b, a, 100.0)
        assert b.members == (1,)
    assert b.away_since_s is None


def test_two_sides_that_lost_each_other_are_one_again() -> None:
    peers = [peer(i, 4) for i in range(4)]
    met(*peers)
    for now in range(1, 14):
        for left, right in ((0, 1), (2, 3)):
            for one in (left, right):
                peers[one].tick(float(now))
            tell(peers[left], peers[right], float(now))
            tell(peers[right], peers[left], float(now))
    assert peers[0].members == (0, 1)
    assert peers[3].members == (2, 3)
    for _ in range(3):
        for speaker in peers:
            for listener in peers:
                if listener is not speaker:
                    tell(listener, speaker, 14.0)
    one_view(*peers)
    assert peers[0].members == tuple(range(4))


def test_who_leaves_is_gone_at_once_and_stays_gone() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    b.leave()
    assert tell(a, b)
    assert a.members == (0,)
    tell(b, a)
    assert b.members == (0,)


# ---- other lives ---------------------------------------------------------------------------


def test_a_process_that_knows_nothing_of_its_pushes_begins_another_epoch() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    before = a.epoch
    again = peer(1, 2, incarnation=1)
    tell(again, a)
    assert again.standings[1].generation == 3
    tell(a, again)
    one_view(a, again)
    assert a.epoch > before
    generation = again.standings[1].generation
    tell(again, peer(0, 2))  # old news of the life before do not make it do so again
    assert again.standings[1].generation == generation


def test_who_begins_anew_among_trained_members_comes_late() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    assert not b.comes_late
    early = peer(1, 2, incarnation=1)
    tell(early, a)
    assert not early.comes_late, "nobody has woken yet"
    a.woke(1, 0)
    tell(b, a)
    assert not b.comes_late, "the others are faster, no more"
    late = peer(1, 2, incarnation=1)
    tell(late, a)
    assert late.comes_late
    resumed = peer(1, 2, incarnation=1)
    resumed.restore(b.standings, 0)
    tell(resumed, a)
    assert not resumed.comes_late


def test_a_process_that_goes_on_from_a_checkpoint_stays_in_the_epoch() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    again = peer(1, 2, incarnation=1)
    again.restore(b.standings, 0)
    tell(again, a)
    tell(a, again)
    one_view(a, again)
    assert a.epoch == peer(0, 2).epoch
    assert a.standings[1].incarnation == 1


def test_who_was_interrupted_returns_with_its_checkpoint() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    b.leave()
    tell(a, b)
    again = peer(1, 2, incarnation=1)
    again.restore(b.standings, 0)
    assert again.members == (0, 1)
    tell(a, again)
    one_view(a, again)


def test_a_lost_disk_makes_a_peer_take_a_number_after_its_last_one() -> None:
    a, b = peer(0, 2), peer(1, 2, incarnation=4)
    met(a, b)
    again = peer(1, 2, incarnation=0, instance="new disk")
    tell(again, a)
    assert again.standings[1].incarnation == 5
    tell(a, again)
    assert a.standings[1].instance == "new disk"


def test_two_processes_with_one_id_find_out() -> None:
    a, one, other = peer(0, 2), peer(1, 2, instance="x"), peer(1, 2, instance="y")
    with pytest.raises(DisagreementError, match="second process") as refusal:
        fight(a, one, other)
    assert refusal.value.cause == "twin"


def fight(listener: Membership, one: Membership, other: Membership) -> None:
    """Each of two hears of the other by a third, again and again."""
    for _ in range(CLASHES + 1):
        for twin in (one, other):
            tell(twin, listener)
            tell(listener, twin)


# ---- the end -------------------------------------------------------------------------------


def test_all_is_over_when_all_know_that_all_are_through() -> None:
    a, b = peer(0, 2), peer(1, 2)
    met(a, b)
    a.woke(5, a.epoch)
    assert not a.complete
    b.woke(7, b.epoch)
    assert tell(a, b)
    assert a.complete
    assert a.unaware == (0, 1)
    a.know()
    tell(b, a)
    assert b.complete
    b.know()
    assert b.unaware == ()
    tell(a, b)
    assert a.unaware == ()


def test_another_epoch_asks_for_all_wakings_again() -> None:
    a, b, c = peer(0, 2), peer(1, 2), peer(2, 2)
    met(a, b)
    for one in (a, b):
        one.woke(5, one.epoch)
    met(a, b)
    assert a.complete
    tell(a, c)
    assert not a.complete
