"""The machine of masses and running sums, one rule at a time; whole runs are in tests/simulation."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from peer import npz
from peer.arrays import Vector
from peer.errors import ProtocolError
from peer.flows import Flows
from peer.messages import Flow
from peer.roster import Roster
from peer.rounds import Rounds
from peer.session import Session
from topology import Graph
from topology.schedules import Static

U = np.array([1.0, -2.0, 0.5, 1.0])
"""A source: gradient (2,), objective and weight."""

V = np.array([3.0, 4.0])
ME, NEIGHBORS, MEMBERS = 0, (1, 2, 4), (0, 1, 2, 3)
"""Agent 4 is a neighbor but no member, agent 3 a member but no neighbor."""


def machine(me: int = ME, *, incarnation: int = 0, epoch: int = 5, source: Vector = U) -> Flows:
    flows = Flows(me, incarnation, tuple(j for j in (0, 1, 2, 4) if j != me))
    flows.open_epoch(epoch, MEMBERS, source)
    return flows


def flow(j: int, counter: int, sums: Any = U, *, incarnation: int = 0, epoch: int = 5) -> Flow:
    return Flow(j, epoch, (incarnation, counter), V + j, np.asarray(sums, dtype=np.float64))


def contents(flows: Flows) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in flows.snapshot().items()}


def cause(flows: Flows, message: Flow) -> str:
    before, newest = contents(flows), [flows.newest(j) for j in range(5)]
    with pytest.raises(ProtocolError) as refusal:
        flows.receive(message)
    assert contents(flows) == before, "a refusal changes nothing"
    assert [flows.newest(j) for j in range(5)] == newest
    assert refusal.value.sender == message.sender
    return refusal.value.cause


def imbalance(flows: Flows) -> Vector:
    """m_i + sum_j S_ji - sum_j R_ij - u_i, exactly: 0 whatever happens."""
    vectors = [flows.mass.high, flows.mass.low, -flows.source]
    vectors += [sums for j in flows.neighbors for sums in (flows.pushed(j), -flows.absorbed(j))]
    return np.array([float(sum(map(Fraction, column))) for column in zip(*(v.tolist() for v in vectors), strict=True)])


# ---- from neighbors ------------------------------------------------------------------------


def test_what_is_absorbed_is_what_the_sums_have_grown_by() -> None:
    flows = machine()
    flows.receive(flow(1, 3, 2.0 * U))
    assert flows.phi == 1.0, "it counts from the next absorption on"
    assert list(flows.absorb()) == [1]
    assert np.array_equal(flows.mass.high, 3.0 * U)
    flows.receive(flow(2, 1, U))
    flows.receive(flow(1, 7, 2.5 * U))
    assert {j: list(v) for j, v in flows.absorb().items()} == {1: [4.0, 5.0], 2: [5.0, 6.0]}
    assert np.array_equal(flows.mass.high, 4.5 * U)
    assert np.array_equal(flows.absorbed(1), 2.5 * U)
    assert flows.absorb() == {}
    assert np.array_equal(flows.mass.high, 4.5 * U)


def test_only_the_newest_flow_counts() -> None:
    flows = machine()
    for counter in (2, 3, 9):
        flows.receive(flow(1, counter, counter * U))
    assert cause(flows, flow(1, 9)) == "duplicate"
    assert cause(flows, flow(1, 4)) == "stale"
    flows.absorb()
    assert np.array_equal(flows.mass.high, 10.0 * U)
    assert cause(flows, flow(1, 9)) == "duplicate"
    assert cause(flows, flow(1, 8)) == "stale"
    flows.receive(flow(2, 1))  # every link has stamps of its own


def test_a_later_incarnation_is_newer_whatever_it_counts() -> None:
    flows = machine()
    flows.receive(flow(1, 1000, 8.0 * U))
    flows.absorb()
    flows.receive(flow(1, 3, 2.0 * U, incarnation=1))
    assert cause(flows, flow(1, 1001, incarnation=0)) == "stale"
    flows.absorb()
    assert np.array_equal(flows.mass.high, 3.0 * U), "what the restart put back is given back"
    assert flows.newest(1) == (1, 3)


def test_others_than_neighbors_and_members_are_refused() -> None:
    flows = machine()
    for j in (ME, 3, 4):
        assert cause(flows, flow(j, 1)) == "neighbor"


@pytest.mark.parametrize("epoch", [0, 4, 6])
def test_other_epochs_are_refused(epoch: int) -> None:
    assert cause(machine(), flow(1, 1, epoch=epoch)) == "epoch"


def test_before_the_first_epoch_everything_is_of_another_one() -> None:
    assert cause(Flows(ME, 0, NEIGHBORS), flow(1, 1, epoch=0)) == "epoch"


def test_a_run_in_rounds_takes_no_flows() -> None:
    roster = Roster(me=0, instance="a", incarnation=0, settings={}, n_agents=2, n_samples=1, n_classes=0)
    session = Session((1,), roster, Rounds(0, Static(Graph.of(2, [(0, 1)])), 10, 1.0))
    with pytest.raises(ProtocolError, match="peer 1: expected shares, for this run has rounds") as refusal:
        session.receive(flow(1, 1))
    assert refusal.value.cause == "mode"


# ---- to neighbors --------------------------------------------------------------------------


def test_a_push_divides_the_mass_among_the_receivers_and_the_agent() -> None:
    flows = machine()
    flows.push(V, [2, 1])
    assert flows.unsent == (1, 2)
    for j in (1, 2):
        np.testing.assert_allclose(flows.pushed(j), U / 3.0, rtol=1e-15)
    np.testing.assert_allclose(flows.mass.high, U / 3.0, rtol=1e-15)
    flows.push(V + 1.0, [1])
    np.testing.assert_allclose(flows.pushed(1), U / 3.0 + U / 6.0, rtol=1e-15)
    np.testing.assert_allclose(flows.pushed(2), U / 3.0, rtol=1e-15)
    assert not imbalance(flows).any()


def test_a_push_to_nobody_keeps_everything() -> None:
    flows = machine()
    flows.push(V, [])
    assert np.array_equal(flows.mass.high, U)
    assert flows.unsent == ()


@pytest.mark.parametrize("j", [ME, 3, 4, 9, -1])
def test_a_push_to_others_than_neighbors_and_members_is_a_mistake_of_ours(j: int) -> None:
    flows = machine()
    before = contents(flows)
    with pytest.raises(ValueError, match="cannot push"):
        flows.push(V, [1, j])
    assert contents(flows) == before


def test_a_slow_neighbor_gets_the_newest_flow_and_no_other() -> None:
    flows = machine(incarnation=2)
    for n in range(100):
        flows.push(V + n, [1])
        assert flows.held <= 5
    message = flows.flow(1)
    assert flows.unsent == ()
    assert (message.sender, message.epoch, message.stamp) == (ME, 5, (2, 100))
    assert np.array_equal(message.v, V + 99)
    assert np.array_equal(message.sums, flows.pushed(1))
    again = flows.flow(1)
    assert again.stamp == message.stamp, "a repetition is a duplicate"


def test_what_was_sent_does_not_change_any_more() -> None:
    flows = machine()
    flows.push(V, [1])
    message = flows.flow(1)
    sums = message.sums.copy()
    flows.push(V + 1.0, [1])
    flows.track(2.0 * U)
    assert np.array_equal(message.sums, sums)


def test_there_is_no_flow_to_whom_nothing_was_pushed() -> None:
    flows = machine()
    flows.push(V, [1])
    with pytest.raises(ValueError, match="nothing to 2"):
        flows.flow(2)


# ---- the mass ------------------------------------------------------------------------------


def test_the_mass_follows_the_source() -> None:
    flows = machine()
    flows.track(3.0 * U)
    flows.track(U + 0.25)
    assert np.array_equal(flows.mass.high, U + 0.25)
    assert not imbalance(flows).any()


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_whatever_happens(seed: int) -> None:
    """Not a bit, also where sums are much larger or smaller than what is added to them."""
    rng = np.random.default_rng(seed)
    flows = machine()
    for n in range(200):
        size = 10.0 ** rng.integers(-8, 9)
        what = rng.integers(4)
        if what == 0:
            flows.receive(flow(int(rng.integers(1, 3)), n, size * rng.normal(size=4)))
        elif what == 1:
            flows.absorb()
        elif what == 2:
            flows.track(size * rng.normal(size=4))
        else:
            flows.push(V, [j for j in (1, 2) if rng.random() < 0.7])
        held = (flows.mass.high, *(flows.pushed(j) for j in (1, 2)), *(flows.absorbed(j) for j in (1, 2)))
        assert np.abs(imbalance(flows)).max() <= 1e-29 * max(float(np.abs(v).max()) for v in held) * (n + 1)


# ---- epochs --------------------------------------------------------------------------------


def test_an_epoch_begins_with_sums_of_zero() -> None:
    flows = machine()
    flows.receive(flow(1, 3))
    flows.absorb()
    flows.receive(flow(2, 3))
    flows.push(V, [1, 2])
    flows.open_epoch(6, (0, 1), 2.0 * U)
    assert flows.members == (0, 1)
    assert np.array_equal(flows.mass.high, 2.0 * U)
    assert not any(sums.any() for j in NEIGHBORS for sums in (flows.pushed(j), flows.absorbed(j)))
    assert flows.unsent == ()
    assert flows.absorb() == {}
    assert cause(flows, flow(2, 9, epoch=6)) == "neighbor"
    assert cause(flows, flow(1, 9, epoch=5)) == "epoch"
    flows.receive(flow(1, 1, epoch=6))  # stamps count from the beginning of the epoch, too


@pytest.mark.parametrize(("epoch", "members"), [(5, (0, 1)), (4, (0, 1)), (6, (1, 2)), (6, ())])
def test_epochs_that_cannot_begin_are_a_mistake_of_ours(epoch: int, members: tuple[int, ...]) -> None:
    flows = machine()
    before = contents(flows)
    with pytest.raises(ValueError, match="cannot follow"):
        flows.open_epoch(epoch, members, U)
    assert contents(flows) == before


# ---- checkpoints ---------------------------------------------------------------------------


def busy() -> Flows:
    flows = machine()
    flows.receive(flow(1, 3, 0.1 * U))
    flows.absorb()
    flows.track(U / 3.0)
    flows.push(V, [1, 2])
    return flows


def test_a_snapshot_goes_to_the_disk_and_back(tmp_path: Path) -> None:
    flows = busy()
    npz.save(tmp_path / "flows.npz", flows.snapshot())
    later = Flows(ME, 1, NEIGHBORS)
    later.restore(npz.load(tmp_path / "flows.npz"))
    assert contents(later) == contents(flows)
    assert later.members == flows.members
    assert later.newest(1) == (0, 3)
    assert later.unsent == (1, 2), "what the life before sent may have been lost"
    assert later.flow(2).stamp == (1, 1)
    assert np.array_equal(later.flow(2).v, V)


def test_a_snapshot_does_not_change_with_the_machine() -> None:
    flows = busy()
    snapshot = flows.snapshot()
    before = {name: array.copy() for name, array in snapshot.items()}
    flows.push(V + 1.0, [1])
    flows.receive(flow(1, 4, U))
    flows.absorb()
    flows.track(U)
    assert all(np.array_equal(snapshot[name], array) for name, array in before.items())


def test_a_flow_that_was_not_absorbed_comes_again() -> None:
    flows = machine()
    flows.receive(flow(1, 3, 2.0 * U))
    later = Flows(ME, 1, NEIGHBORS)
    later.restore(flows.snapshot())
    assert later.newest(1) is None
    later.receive(flow(1, 3, 2.0 * U))
    later.absorb()
    assert np.array_equal(later.mass.high, 3.0 * U)


@pytest.mark.parametrize("name", list(busy().snapshot()))
def test_a_snapshot_lacks_nothing_that_it_needs(name: str) -> None:
    arrays = {key: array for key, array in busy().snapshot().items() if key != name}
    later = Flows(ME, 1, NEIGHBORS)
    before = contents(later)
    if name.startswith("pushed."):  # it cannot be told from one that was pushed less; (17) tells
        later.restore(arrays)
        assert imbalance(later).any()
        return
    with pytest.raises((KeyError, ValueError)):
        later.restore(arrays)
    assert contents(later) == before


@pytest.mark.parametrize(
    "changed",
    [
        {"mass.low": U[1:]},
        {"pushed.1": U[1:]},
        {"absorbed.1": U.astype(np.float32)},
        {"stamp.1": np.array([1, 2, 3])},
        {"pushed.x": U},
        {"epoch": np.array("five")},
    ],
)
def test_what_is_no_snapshot(changed: dict[str, Any]) -> None:
    later = Flows(ME, 1, NEIGHBORS)
    before = contents(later)
    with pytest.raises(ValueError, match=r".") as refusal:
        later.restore(busy().snapshot() | changed)
    assert contents(later) == before, refusal.value


def test_an_old_checkpoint_heals() -> None:
    """What agent 0 forgets to have pushed, agent 1 gives back; what it forgets to have absorbed, it absorbs again."""
    a, b = machine(0, source=U), machine(1, source=-U + 2.0 * np.eye(4)[3])
    old = a.snapshot()
    for _ in range(10):
        a.push(V, [1])
        b.receive(a.flow(1))
        b.absorb()
        b.push(V, [0])
        a.receive(b.flow(0))
        a.absorb()
    a = Flows(0, 1, (1, 2, 4))
    a.restore(old)
    for n in range(80):
        a.push(V, [1])
        b.receive(a.flow(1))
        b.absorb()
        if n == 0:
            assert b.phi < 0.0, "for a moment"
        b.push(V, [0])
        a.receive(b.flow(0))
        a.absorb()
    total = a.source + b.source
    np.testing.assert_allclose(a.mass.high + b.mass.high, total, rtol=0, atol=1e-13)
    assert a.phi > 0.1
    assert b.phi > 0.1
    for flows in (a, b):
        np.testing.assert_allclose(flows.mass.high / flows.phi, total / total[-1], rtol=0, atol=1e-13)
