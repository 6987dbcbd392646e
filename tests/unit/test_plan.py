"""The plan on paper computes with the rates that mixing matrices have."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import plan
from topology import graphs, schedules, sparse, weights
from topology.sparse import OnePeerExponential


@pytest.mark.parametrize("n_agents", [3, 4, 10, 33])
def test_circulant_rates_are_the_mixing_rates(n_agents: int) -> None:
    for graph, hops in (
        (graphs.ring(n_agents), [1]),
        (graphs.exponential(n_agents), graphs.exponential_hops(n_agents)),
    ):
        expected = weights.mixing_rate(schedules.Static(graph), 1)
        assert plan.circulant_rate(n_agents, hops) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_lanczos_finds_the_rate_of_a_large_graph() -> None:
    n_agents = 600  # too many for all eigenvalues
    links = sparse.random_cycles(n_agents, 4, seed=3)
    eigenvalues = np.linalg.eigvalsh(sparse.mixing_matrix(links).toarray())
    assert plan.lanczos_rate(links) == pytest.approx(np.abs(eigenvalues[:-1]).max(), rel=1e-7)


def test_rounds_are_those_after_which_so_much_is_left() -> None:
    for rate in (0.2, 0.9, 1.0 - 1e-9):
        n = plan.rounds_of(rate, 1e-6)
        assert rate**n <= 1e-6 * (1.0 + 1e-12)
        assert rate ** (n - 1) > 1e-6
    assert plan.rounds_of(0.0, 1e-6) == 1


@pytest.mark.parametrize("k", [1, 3, 6])
def test_one_peer_exponential_graphs_agree_in_as_many_rounds_as_bits(k: int) -> None:
    assert plan.rounds_by_averaging(OnePeerExponential(2**k), 1e-6) == k
    assert plan.rounds_by_averaging(OnePeerExponential(2**k + 1), 1e-6) > k + 1


def test_a_round_is_the_sum_of_its_parts() -> None:
    costs = plan.Costs(message_s=1e-3, byte_s=1e-9, bandwidth=8e9, delay_s=0.25, solve_s=0.5)
    assert costs.round_s(3, 10**6) == pytest.approx(0.75 + 3 * (1e-3 + 1e-3 + 1e-3))


def test_cycles_of_few_hosts_share_links() -> None:
    few, many = (plan.plans(hosts, 1e-6)[-1] for hosts in (10, 1_000))
    assert (few.degree, few.links) == (7, 5.6)
    assert (many.degree, round(many.links, 2)) == (8, 7.96)


@pytest.mark.parametrize("options", ["--hosts 2", "--left 2", "--left 0", "--p 0", "--bandwidth 0", "--delay -1"])
def test_a_plan_of_what_cannot_be_is_refused(options: str) -> None:
    result = CliRunner().invoke(plan.main, options.split())
    assert result.exit_code == 2
    assert "is not in the range" in result.output


def test_the_table_names_what_is_measured_and_what_is_given() -> None:
    result = CliRunner().invoke(plan.main, ["--hosts", "8", "--hosts", "10", "--message-s", "1e-4"])
    head, columns, *rows = result.output.splitlines()
    assert "measured: a message 100 us" in head
    assert "given: 1 Gbit/s, 0.5 ms" in head
    assert columns.split()[:2] == ["hosts", "graph"]
    assert [row[:22].split()[:2] for row in rows[:4]] == [
        ["8", "ring"],
        ["8", "exponential"],
        ["8", "one-peer"],
        ["8", "random,"],
    ]
    assert rows[2].split()[4:6] == ["-", "3"]


def test_times_are_told_in_units_of_their_size() -> None:
    texts = [plan.duration(seconds) for seconds in (0.0167, 1.66, 90.0, 7_200.0, 2e5, 7e7)]
    assert texts == ["16.7 ms", "1.7 s", "90.0 s", "2.0 h", "2.3 days", "2.2 years"]


def test_bytes_are_told_in_units_of_their_size() -> None:
    texts = [plan.amount(n_bytes) for n_bytes in (1_732, 1.6e6, 6.2e9, 3.36e12, 3.4e16)]
    assert texts == ["1.7 kB", "1.6 MB", "6.2 GB", "3.4 TB", "34.0 PB"]
