"""Whole runs over networks that delay, reorder, repeat and lose, with peers that crash and are resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

import pytest

from peer import wire
from peer.messages import NOTHING_FORGOTTEN
from peer.rounds import MEETINGS, Rounds
from tests import network, synchronous
from tests.synchronous import play, scenario, without_network
from topology import PeerId

Take: TypeAlias = Callable[[synchronous.Peer, list[bytes], PeerId, bool], None]

N_SEEDS = 240
CHUNK = 20


@pytest.mark.parametrize("first", range(0, N_SEEDS, CHUNK))
def test_every_run_is_the_run_without_a_network(first: int) -> None:
    """Bit for bit, with (9) in every round and bounded memory; see `synchronous.check` and `synchronous.Run`."""
    for seed in range(first, first + CHUNK):
        finished = play(seed)
        through = {i for (i, _), state in finished.history.items() if finished.what.first.is_through(state)}
        assert set(finished.peers) == through


def test_a_peer_that_crashes_between_two_exchanges_begins_the_round_anew() -> None:
    """And comes to the same, as `play` checks."""
    seeds = (seed for seed in range(1000) if len((what := scenario(seed)).crashes) == 6 and what.n_steps > 2)
    found = [play(seed).happened["crash within a round"] for _, seed in zip(range(6), seeds, strict=False)]
    assert sum(found) >= 6


def test_an_undisturbed_run_holds_two_shares_of_a_neighbor_at_most_and_drops_nothing() -> None:
    calm = [seed for seed in range(1000, 1400) if scenario(seed).weather.is_calm and not scenario(seed).crashes][:12]
    assert len(calm) == 12
    for seed in calm:
        finished = play(seed)
        assert finished.most_held <= MEETINGS, f"replay: python -m tests.simulate --mode rounds --seed {seed}"
        assert all(not peer.dropped for peer in finished.peers.values())


def test_the_seeds_cover_what_they_are_for() -> None:
    """Else a change of the generator could make the tests above easy without anybody noticing."""
    runs = [scenario(seed) for seed in range(N_SEEDS)]
    kinds = Counter(type(run.schedule).__name__ for run in runs)
    kinds.update(type(run.first.problem.surrogate).__name__ for run in runs)
    kinds.update(type(run.first.problem.data.loss).__name__ for run in runs)
    kinds.update(type(run.first.problem.regularizer).__name__ for run in runs)
    kinds.update(run.dtype for run in runs)
    methods = Counter(type(run.first.method).__name__ for run in runs)
    assert len(methods) == 5, methods
    assert min(methods.values()) >= 5, methods
    kinds.update(f"clipped {run.first.clipping is not None}" for run in runs)
    early = [run for run in runs if run.first.tolerance and len(without_network(run)) <= run.n_rounds]
    kinds.update("early" for run in early)
    kinds.update(f"early with {fault}" for run in early for fault in _faults(run))
    kinds.update(f"{run.n_steps} exchanges" for run in runs)
    kinds.update("polynomial" for run in runs if not run.first.gossip.is_plain)
    kinds.update(f"{fault} with several steps" for run in runs if run.n_steps > 1 for fault in _faults(run))
    kinds.update("early with several steps" for run in early if run.n_steps > 1)
    kinds.update("batches" for run in runs if any(actor.problem.batches for actor in run.actors))
    judged = [run for run in runs if run.first.patience and without_network(run)[-1][0].waited >= run.first.patience]
    kinds.update("ended by validation" for run in judged)
    kinds.update(f"ahead {run.ahead}, reorder {run.weather.reorder}" for run in runs)
    expected = ["Static", "RandomLinks", "Matchings", "OnePeerExponential", "Replay", "Full", "Partial"]
    expected += ["Squared", "Logistic", "Softmax", "NoRegularizer", "L2", "L1", "f8", "f4", "clipped True"]
    expected += ["1 exchanges", "2 exchanges", "3 exchanges", "polynomial"]
    expected += ["early with several steps", *(f"{fault} with several steps" for fault in FAULTS)]
    expected += ["early", "early with crashes", "early with f4", "early with clipping", "early with idle rounds"]
    expected += ["batches", "ended by validation"]
    expected += [f"ahead {ahead}, reorder {reorder}" for ahead in (True, False) for reorder in (True, False)]
    assert all(kinds[kind] >= 10 for kind in expected), kinds
    assert sum(len(run.crashes) for run in runs) > 100
    assert sum(run.slow is not None for run in runs) > 40
    weathers = [run.weather for run in runs]
    assert sum(len(weather.breaks) for weather in weathers) > 100
    for spells in ("partitions", "cuts", "stops"):
        assert sum(len(getattr(weather, spells)) for weather in weathers) > 60, spells
    for sometimes in ("loss", "corrupt", "duplicate", "late"):
        assert sum(getattr(weather, sometimes) > 0.0 for weather in weathers) > 40, sometimes
    assert sum(weather.corrupt > 0.0 and not weather.sealed for weather in weathers) > 20
    assert sum(weather.is_calm for weather in weathers) > 40
    assert any(not run.schedule.graph(n).edges for run in runs for n in range(run.n_exchanges))


FAULTS = ("crashes", "f4", "clipping", "idle rounds")


def _faults(run: synchronous.Scenario) -> list[str]:
    """What could keep agents from stopping at the same round."""
    idle = any(run.schedule.graph(n).degree(i) == 0 for n in range(run.n_exchanges) for i in range(run.n_agents))
    found = (run.crashes, run.dtype == "f4", run.first.clipping, idle)
    return [name for name, there in zip(FAULTS, found, strict=True) if there]


def test_a_seed_is_the_same_run_every_time() -> None:
    first: list[str] = []
    second: list[str] = []
    play(3, first.append)
    play(3, second.append)
    assert len(first) > 100
    assert first == second


def test_a_failure_names_its_seed_and_the_command_that_replays_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a share that gets lost without its connection breaking is a failure: nobody sends it again."""
    monkeypatch.setattr(synchronous.Peer, "take", _forgetful(synchronous.Peer.take))
    command = r"python -m tests\.simulate --mode rounds --seed 11$"
    with pytest.raises(AssertionError, match=rf"seed 11: (.|\n)*{command}") as failure:
        play(11)
    assert "there wait peer" in str(failure.value)


def _forgetful(take: Take) -> Take:
    def forget(self: synchronous.Peer, frames: list[bytes], sender: PeerId, whole: bool) -> None:
        if not whole or b"share" not in frames[0] or b"\xa1n\x02" not in frames[0]:  # those of round 2
            take(self, frames, sender, whole)

    return forget


def test_who_is_not_told_what_is_gone_waits_for_it_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed from a checkpoint that is not its last, a peer needs shares that its neighbors have forgotten."""
    seed = 63
    played = play(seed)
    assert played.happened["sent back for its last checkpoint"]
    monkeypatch.setattr(Rounds, "forgotten", lambda *_: NOTHING_FORGOTTEN)
    with pytest.raises(AssertionError, match="there wait peer"):
        synchronous.Run(scenario(seed)).play()


def test_a_garbled_message_that_is_taken_for_a_whole_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "garbled", lambda frames, chance: frames)
    seed = next(s for s in range(1000) if (w := scenario(s).weather).corrupt > 0.04 and not w.sealed)
    with pytest.raises(AssertionError, match="taken for a whole one"):
        play(seed)


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
