"""When an agent wakes, and to whom it pushes."""

from __future__ import annotations

import itertools
import math

import pytest

from peer.pace import FIRST_IDLE_S, IDLE_S, LEAST_S, RETRY_S, Pace


def woken(pace: Pace, began_s: float, took_s: float, *news: int) -> Pace:
    pace.woke(began_s, began_s + took_s, frozenset(news))
    return pace


def test_the_first_waking_waits_for_nobody() -> None:
    assert Pace().wakes_s(frozenset()) == -math.inf


def test_equals_are_waited_for_and_slow_ones_no_longer_than_a_waking_takes() -> None:
    pace = woken(Pace(), 0.0, 0.010, 1, 2)
    pace.heard(1, 0.012)
    assert pace.wakes_s(frozenset({1})) == pytest.approx(0.022)  # as long after the first as the last waking took
    assert pace.wakes_s(frozenset({1, 2})) == pytest.approx(0.011)
    pace = woken(pace, 0.022, 0.010, 1)
    pace.heard(1, 0.040)
    assert pace.wakes_s(frozenset({1})) == pytest.approx(0.033)  # 2 was slow: nobody waits for it any more


def test_news_that_came_during_a_waking_count_from_its_end() -> None:
    pace = woken(Pace(), 0.0, 0.010, 1, 2)
    pace.heard(1, 0.015)
    pace = woken(pace, 0.020, 0.010, 1, 2)
    assert pace.wakes_s(frozenset({2})) == pytest.approx(0.040)


def test_where_nothing_comes_it_wakes_less_and_less_often() -> None:
    pace, now, pauses = woken(Pace(), 0.0, 0.001, 1), 0.001, []
    for _ in range(12):
        wakes_s = pace.wakes_s(frozenset())
        pauses.append(wakes_s - now)
        now = wakes_s
        pace.woke(now, now, frozenset())
        assert pace.is_fruitless
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(pauses))
    assert FIRST_IDLE_S <= pauses[0] < pauses[-1] == pytest.approx(IDLE_S)
    pace.heard(1, now)
    assert not woken(pace, now, 0.001, 1).is_fruitless


def test_it_never_wakes_more_often_than_is_bounded() -> None:
    pace = woken(Pace(), 0.0, 0.0, 1)
    pace.heard(1, 0.0)
    assert pace.wakes_s(frozenset({1})) == LEAST_S


def test_who_answers_is_pushed_to_when_it_has_and_who_does_not_ever_more_rarely() -> None:
    pace, pushes, now = Pace(), [], 0.0
    while now < 60.0:
        if pace.open_to([1], [1], now):
            pushes.append(now)
        now += 0.005
    gaps = [after - before for before, after in itertools.pairwise(pushes)]
    assert gaps[:4] == pytest.approx([0.04, 0.08, 0.16, 0.32], abs=0.006)
    assert max(gaps) == pytest.approx(RETRY_S, abs=0.006)
    pace.heard(1, now)
    assert pace.open_to([1], [1], now) == (1,)
    assert pace.open_to([1], [1], now + 0.001) == ()


def test_who_cannot_answer_is_pushed_to_every_time() -> None:
    pace = Pace()
    assert all(pace.open_to([2, 1], [3], 0.001 * n) == (1, 2) for n in range(10))
