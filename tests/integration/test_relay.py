"""The relay does to messages what it says, and rounds mode does not mind what it is made to survive."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any

import zmq

from tests.integration.fleet import Fleet, Relay
from tests.integration.lab import Lab, free_addresses, same_finals

N_MESSAGES = 2_000
PEERS = 4


def _through(*options: str) -> tuple[dict[str, int], list[tuple[bytes, int]]]:
    """Send numbers through a relay, from two peers to one; what it says that it did, and what arrived."""
    listen, target = free_addresses(2)
    with zmq.Context() as context, ExitStack() as stack:
        router = stack.enter_context(context.socket(zmq.ROUTER))
        router.bind(target)
        relay = stack.enter_context(Relay.start({listen: target}, *options))
        senders = [stack.enter_context(context.socket(zmq.DEALER)) for _ in range(2)]
        for i, sender in enumerate(senders):
            sender.setsockopt(zmq.ROUTING_ID, b"peer-%d" % i)
            sender.connect(listen)
        for k in range(N_MESSAGES):
            for sender in senders:
                sender.send_multipart([b"header", b"%d" % k, b"x" * 5_000])
        arrived = []
        while router.poll(2_000):  # far longer than any message is on its way
            name, header, number, body = router.recv_multipart()
            assert (header, body) == (b"header", b"x" * 5_000)
            arrived.append((name, int(number)))
        return relay.stop(), arrived


def test_it_loses_repeats_and_reorders_and_says_so() -> None:
    options = ("--seed", "5", "--drop", "0.3", "--duplicate", "0.2", "--delay", "0.03")
    did, arrived = _through(*options)
    assert did["came"] == 2 * N_MESSAGES
    assert did["delivered"] == len(arrived)
    assert did["came"] + did["duplicated"] == did["dropped"] + did["delivered"] + did["unreachable"]
    assert 0.27 * did["came"] < did["dropped"] < 0.33 * did["came"]
    assert {name for name, _ in arrived} == {b"peer-0", b"peer-1"}
    numbers = [number for name, number in arrived if name == b"peer-0"]
    assert did["overtaken"] > 100
    assert numbers != sorted(numbers)
    copies = Counter(arrived)
    assert max(copies.values()) == 2
    again, _ = _through(*options)
    assert all(again[kind] == did[kind] for kind in ("came", "dropped", "duplicated")), "the seed decides"


def test_it_loses_nothing_where_it_is_told_so() -> None:
    did, arrived = _through("--drop", "0", "--duplicate", "0")
    assert sorted(arrived) == sorted((b"peer-%d" % i, k) for i in range(2) for k in range(N_MESSAGES))
    assert did["overtaken"] > 100


def test_a_run_in_rounds_has_the_same_bits_through_it(lab: Lab) -> None:
    """Late, repeated and overtaking messages change nothing; a lost one would, for it would be waited for."""
    tree: dict[str, Any] = {
        "seed": 11,
        "peers": PEERS,
        "iterations": 60,
        "data": {"path": lab.four_shards()},
        "model": {"hidden": [4]},
        "objective": {"loss": "cross_entropy"},
        "topology": {"graph": "complete", "schedule": "random-links", "link_probability": 0.4},
    }
    launched = lab.launch(lab.experiment("launched", **tree), "launched")
    with Fleet(lab, tree, relay=("--drop", "0", "--delay", "0.01", "--duplicate", "0.3")) as fleet:
        for peer in range(PEERS):
            fleet.start(peer)
        for peer in range(PEERS):
            assert fleet.ended(peer) == (0, "")
        did = fleet.relay_did()
    same_finals(launched, fleet.out, PEERS)
    assert did["duplicated"] > 50
    assert did["overtaken"] > 5
    assert did["dropped"] == did["unreachable"] == 0
