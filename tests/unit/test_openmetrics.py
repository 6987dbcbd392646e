"""Numbers as OpenMetrics text, by the parser of Prometheus' own client."""

from __future__ import annotations

import math

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from peer.openmetrics import Tally
from tests.rundir import metrics


def samples(tally: Tally) -> dict[tuple[str, str, str], Sample]:
    """By name, peer and cause."""
    families = text_string_to_metric_families(tally.text())  # type: ignore[no-untyped-call]
    found = [sample for family in families for sample in family.samples]
    return {(one.name, one.labels["peer"], one.labels.get("cause", "")): one for one in found}


def test_what_rounds_take_is_added_up_and_the_state_is_the_last_one() -> None:
    tally = Tally("tiny")
    for n in range(3):
        for peer in (1, 0):
            tally.add(peer, metrics(peer, n))
    found = {key: one.value for key, one in samples(tally).items()}
    last = metrics(1, 2)
    assert found["next_peer_rounds_total", "1", ""] == 3
    assert found["next_peer_sent_bytes_total", "1", ""] == 3 * last["bytes_sent"]
    assert found["next_peer_wait_seconds_total", "1", ""] == 3 * last["wait_s"]
    assert found["next_peer_objective", "1", ""] == last["objective_estimate"]
    assert found["next_peer_dropped_messages_total", "1", "stale"] == 2
    assert ("next_peer_dropped_messages_total", "0", "stale") not in found


def test_it_is_text_before_anything_has_happened() -> None:
    assert samples(Tally("tiny")) == {}


def test_numbers_that_are_none_and_names_that_need_it_survive() -> None:
    name = 'a "run"\\of\nmine'
    tally = Tally(name)
    broken = {"objective_estimate": math.nan, "residual": math.inf, "disagreement": -math.inf}
    tally.add(0, metrics(0, 0) | broken)
    found = samples(tally)
    assert math.isnan(found["next_peer_objective", "0", ""].value)
    assert found["next_peer_residual", "0", ""].value == math.inf
    assert found["next_peer_disagreement", "0", ""].value == -math.inf
    assert found["next_peer_residual", "0", ""].labels["run"] == name
