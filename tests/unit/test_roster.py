"""Who is here, with which settings, and how many samples all have."""

from __future__ import annotations

import pytest

from peer.errors import DisagreementError
from peer.messages import Hello
from peer.roster import Roster

SETTINGS = {"seed": "1", "step.alpha": "0.1"}


def roster(me: int, **changed: object) -> Roster:
    values: dict[str, object] = {
        "instance": f"process of {me}",
        "incarnation": 0,
        "settings": SETTINGS,
        "n_agents": 3,
        "n_samples": 10 + me,
        "n_classes": 0,
    }
    return Roster(me=me, **(values | changed))  # type: ignore[arg-type]


def disagreement(here: Roster, hello: Hello) -> DisagreementError:
    known, n_classes = dict(here.counts), here.n_classes
    with pytest.raises(DisagreementError) as error:
        here.receive(hello)
    assert error.value.sender == hello.sender
    assert (here.counts, here.n_classes) == (known, n_classes), "what is refused changes nothing"
    assert str(error.value).isprintable()
    return error.value


def test_counts_spread_along_a_line() -> None:
    a, b, c = (roster(i) for i in range(3))
    assert a.missing == (1, 2)
    assert b.receive(a.hello("ask", 0))
    assert not b.receive(a.hello("ask", 0)), "no news"
    assert c.receive(b.hello("ask", 0))
    assert c.missing == ()
    assert b.receive(c.hello("answer", 0))
    assert a.receive(b.hello("news", 0))
    assert [r.n_samples_total for r in (a, b, c)] == [33, 33, 33]


def test_a_connection_carries_each_count_once() -> None:
    a = roster(0, n_agents=5)
    assert a.hello("ask", 0, to=1).n_samples == {0: 10}
    assert a.hello("answer", 0, to=1).n_samples == {}
    a.counts[2] = 12
    assert a.hello("news", 0, to=1).n_samples == {2: 12}
    assert a.hello("news", 0, to=3).n_samples == {0: 10, 2: 12}
    a.counts[4] = 14
    assert a.hello("answer", 0, to=1).n_samples == {4: 14}
    assert a.hello("ask", 0, to=1).n_samples == {0: 10, 2: 12, 4: 14}, "a new connection: the old one may have lost all"
    assert a.hello("news", 0, to=1).n_samples == {}


def test_who_knows_all_counts_from_the_beginning_misses_nobody() -> None:
    a, b = roster(0), roster(1)
    a.restore({0: 10, 1: 11, 2: 12}, 4)
    assert (a.missing, a.n_samples_total, a.n_classes) == ((), 33, 4)
    assert b.receive(a.hello("ask", 0, to=1))
    assert not a.receive(b.hello("ask", 0, to=0)), "no news"


def test_the_largest_label_spreads() -> None:
    a, b = roster(0, n_classes=2), roster(1, n_classes=4)
    assert a.receive(b.hello("ask", 0))
    assert a.hello("news", 0).n_classes == 4
    b.receive(a.hello("answer", 0))
    assert b.n_classes == 4
    assert not a.receive(b.hello("news", 0))
    b.n_classes = 5  # that of somebody whose count is known already
    assert a.receive(b.hello("news", 0))


def test_a_hello_says_what_it_is_asked_to() -> None:
    hello = roster(1, incarnation=2).hello("answer", 7, ((3, "y"),))
    assert (hello.sender, hello.incarnation, hello.n, hello.held) == (1, 2, 7, ((3, "y"),))
    assert (hello.settings, hello.n_samples) == (SETTINGS, {1: 11})
    assert roster(1).hello("news", 7).settings == {}


def test_hellos_do_not_change_afterwards() -> None:
    a = roster(0)
    before = a.hello("news", 0)
    a.receive(roster(1).hello("ask", 0))
    assert before.n_samples == {0: 10}


@pytest.mark.parametrize("purpose", ["ask", "answer"])
def test_other_settings_are_named(purpose: str) -> None:
    other = roster(1, settings={"seed": "2", "step.mu": "0.5"})
    error = disagreement(roster(0), other.hello(purpose, 0))  # type: ignore[arg-type]
    assert error.cause == "settings"
    assert "seed is 2 there, 1 here" in str(error)
    assert "step.alpha is absent there, 0.1 here" in str(error)
    assert "step.mu is 0.5 there, absent here" in str(error)


def test_many_or_long_settings_stay_one_short_line() -> None:
    other = {f"{k}" * 1000: "x" * 10_000 for k in range(9)}
    error = disagreement(roster(0), roster(1, settings=other).hello("ask", 0))
    assert len(str(error)) < 2_000
    assert "and 7 more" in str(error)


def test_news_carry_no_settings() -> None:
    assert roster(0).receive(roster(1, settings={"seed": "2"}).hello("news", 0))


def test_counts_that_contradict_each_other() -> None:
    a = roster(0)
    a.receive(roster(1).hello("ask", 0))
    assert disagreement(a, roster(1, n_samples=12).hello("ask", 0)).cause == "counts"
    lying = roster(2)
    lying.counts[0] = 99
    assert "peer 0 has 99 samples there, 10 here" in str(disagreement(a, lying.hello("news", 0)))


def test_before_the_start_a_peer_may_be_started_again() -> None:
    a = roster(0)
    a.receive(roster(1, instance="first").hello("ask", 0))
    a.receive(roster(1, instance="second").hello("ask", 0))


def test_after_the_start_only_its_resumption_may_take_its_place() -> None:
    a = roster(0)
    a.receive(roster(1, instance="first").hello("ask", 0))
    a.began = True
    assert disagreement(a, roster(1, instance="second").hello("ask", 0)).cause == "twin"
    a.receive(roster(1, instance="first").hello("ask", 3))
    a.receive(roster(1, instance="third", incarnation=1).hello("ask", 3))
    assert disagreement(a, roster(1, instance="first").hello("news", 3)).cause == "twin", "late words of the first"
    assert disagreement(a, roster(1, instance="fourth", incarnation=1).hello("ask", 3)).cause == "twin"
    a.receive(roster(1, instance="fifth", incarnation=2).hello("ask", 3))


def test_a_peer_alone_misses_nobody() -> None:
    alone = roster(0, n_agents=1)
    assert alone.missing == ()
    assert alone.n_samples_total == 10
