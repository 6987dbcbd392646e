"""Whole runs over networks that delay, reorder, repeat and lose, with peers that crash and are resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import pytest

from peer import wire
from peer.rounds import MEETINGS
from tests import network
from tests.network import play, scenario

Take: TypeAlias = Callable[[network.Peer, list[bytes]], None]

N_SEEDS = 240
CHUNK = 20


@pytest.mark.parametrize("first", range(0, N_SEEDS, CHUNK))
def test_every_run_is_the_run_without_a_network(first: int) -> None:
    """Bit for bit, with (9) in every round and bounded memory; see `network.check` and `network.Network`."""
    for seed in range(first, first + CHUNK):
        finished = play(seed)
        assert set(finished.peers) == {i for i, n in finished.history if n == finished.run.n_rounds}


def test_an_undisturbed_run_holds_two_shares_of_a_neighbor_at_most_and_drops_nothing() -> None:
    calm = [seed for seed in range(1000, 1200) if _is_calm(seed)][:12]
    assert len(calm) == 12
    for seed in calm:
        finished = play(seed)
        assert finished.most_held <= MEETINGS, f"replay: python -m tests.network --seed {seed}"
        assert all(not peer.dropped for peer in finished.peers.values())


def _is_calm(seed: int) -> bool:
    weather = scenario(seed).weather
    return not (weather.breaks or weather.crashes or weather.duplicate)


def test_the_seeds_cover_what_they_are_for() -> None:
    """Else a change of the generator could make the tests above easy without anybody noticing."""
    runs = [scenario(seed) for seed in range(N_SEEDS)]
    kinds = Counter(type(run.schedule).__name__ for run in runs)
    kinds.update(type(run.problems[0].surrogate).__name__ for run in runs)
    kinds.update(type(run.problems[0].data.loss).__name__ for run in runs)
    kinds.update(type(run.problems[0].regularizer).__name__ for run in runs)
    kinds.update(run.dtype for run in runs)
    kinds.update(f"clipped {run.radii is not None}" for run in runs)
    kinds.update(f"ahead {run.ahead}, reorder {run.weather.reorder}" for run in runs)
    expected = ["Static", "RandomLinks", "Matchings", "OnePeerExponential", "Replay", "Full", "Partial"]
    expected += ["Squared", "Logistic", "Softmax", "NoRegularizer", "L2", "L1", "f8", "f4", "clipped True"]
    expected += [f"ahead {ahead}, reorder {reorder}" for ahead in (True, False) for reorder in (True, False)]
    assert all(kinds[kind] >= 10 for kind in expected), kinds
    assert sum(len(run.weather.crashes) for run in runs) > 100
    assert sum(len(run.weather.breaks) for run in runs) > 100
    assert any(not run.schedule.graph(n).edges for run in runs for n in range(run.n_rounds))


def test_a_seed_is_the_same_run_every_time() -> None:
    first: list[str] = []
    second: list[str] = []
    play(3, first.append)
    play(3, second.append)
    assert len(first) > 100
    assert first == second


def test_a_failure_names_its_seed_and_the_command_that_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a share that gets lost without its connection breaking is a failure: nobody sends it again."""
    monkeypatch.setattr(network.Peer, "take", _forgetful(network.Peer.take))
    with pytest.raises(AssertionError, match=r"seed 11: (.|\n)*python -m tests\.network --seed 11$") as failure:
        play(11)
    assert "there wait peer" in str(failure.value)


def _forgetful(take: Take) -> Take:
    def forget(self: network.Peer, frames: list[bytes]) -> None:
        if b"share" not in frames[0] or b"\xa1n\x02" not in frames[0]:  # those of round 2
            take(self, frames)

    return forget


def test_a_share_that_one_end_uses_otherwise_breaks_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the comparison with the plain run sees a single bit."""
    decode = wire.decode

    def flip(frames: list[bytes], form: wire.Format) -> object:
        last = bytearray(frames[-1])
        if len(frames) > 1:
            last[0] ^= 1
        return decode([*frames[:-1], bytes(last)], form)

    monkeypatch.setattr(wire, "decode", flip)
    with pytest.raises(AssertionError, match=r"is not that of the run without a network|comes to another"):
        play(1)
