"""A run over sockets equals the in-memory simulation bit for bit, whatever the simulated network does."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from peer import config, learning, settings, validation
from peer.optim import regimes
from peer.simulation import Agents
from tests import synchronous
from tests.integration.lab import Lab, events, metrics, parameters

PEERS, ROUNDS = 5, 25

LINKS: dict[str, Any] = {"graph": "complete", "schedule": "random-links", "link_probability": 0.5}

UNLIKE = {"time_s", "solve_s", "wait_s", "bytes_sent", "bytes_received"}
"""What a peer writes down that depends on clocks, and on what it sends beside its shares."""

FEEDBACK: dict[str, Any] = {"kind": "full", "gradient": "feedback-alignment", "tau": 2.0}

CASES: dict[str, dict[str, Any]] = {
    "squared, l2": {"objective": {"loss": "squared", "regularizer": "l2"}},
    "softmax, l1": {"objective": {"loss": "cross_entropy", "regularizer": "l1", "strength": 0.01}},
    "huber, l1": {"objective": {"loss": "huber", "huber_delta": 0.3, "regularizer": "l1", "strength": 0.01}},
    "squared hinge": {"objective": {"loss": "squared_hinge"}},
    "groups, a block a layer": {
        "objective": {"loss": "cross_entropy", "regularizer": "group_l2", "strength": 0.01},
        "surrogate": {"blocks": "layers", "cores": 2},
    },
    "full, f4": {
        "objective": {"loss": "cross_entropy"},
        "surrogate": {"kind": "full", "tau": 2.0},
        "transport": {"wire_dtype": "f4"},
    },
    "clipped": {
        "objective": {"loss": "cross_entropy"},
        "robustness": {"clip_w": 0.1, "clip_y": 0.02, "clip_objective": 0.1},
    },
    "a polynomial, f4": {
        "topology": {"graph": "ring", "consensus_steps": 3, "consensus": "chebyshev"},
        "transport": {"wire_dtype": "f4"},
    },
    "two exchanges, stopped early": {
        "objective": {"loss": "cross_entropy"},
        "topology": LINKS | {"consensus_steps": 2},
        "run": {"tolerance": 0.3},
    },
    "the layers' inner product, elastic net": {
        "model": {"hidden": [6], "inner_product": "fan-in"},
        "objective": {"loss": "cross_entropy", "regularizer": "elastic_net", "strength": 0.01, "lower": -0.5},
    },
    "a chain, moved images": {
        "model": {
            "image": [1, 2, 2],
            "layers": [
                {"kind": "convolution", "channels": 3, "size": 2, "padding": 1},
                "gelu",
                {"kind": "max-pooling", "size": 2},
                "flatten",
                {"kind": "residual", "layers": ["layer-normalization", {"kind": "dense"}, "tanh"]},
                {"kind": "dense"},
            ],
        },
        "objective": {"loss": "cross_entropy", "tangent_strength": 0.1, "shifts": [[1, 0], [0, 1]]},
    },
    "inexact": {
        "objective": {"loss": "cross_entropy", "regularizer": "l1", "strength": 0.01},
        "surrogate": {"inexactness": 1.0},
    },
    "batches": {"objective": {"loss": "cross_entropy"}, "surrogate": {"batch": 4, "tau": 3.0}},
    "random features": {"objective": {"loss": "cross_entropy"}, "regime": {"kind": "random-features"}},
    "linearized anew by themselves": {"objective": {"loss": "squared"}, "regime": {"kind": "auto"}},
    "feedback, and back": {
        "objective": {"loss": "cross_entropy"},
        "surrogate": FEEDBACK | {"batch": 4, "cores": 2, "probe_every": 3, "fallback": 0.3, "grace": 5},
    },
    "differences, bf16": {"objective": {"loss": "cross_entropy"}, "transport": {"wire_dtype": "bf16"}},
    "top-k, bf16, two exchanges": {
        "topology": LINKS | {"consensus_steps": 2},
        "compression": {"kind": "top-k", "fraction": 0.2},
        "transport": {"wire_dtype": "bf16"},
    },
    "random-k": {"compression": {"kind": "random-k", "fraction": 0.2}},
    "choco, bf16": {
        "objective": {"loss": "cross_entropy"},
        "method": {"kind": "choco", "local_steps": 2},
        "surrogate": {"batch": 4},
        "step": {"rule": "diminishing", "mu": 0.1},
        "transport": {"wire_dtype": "bf16"},
    },
    "gradient tracking, random-k": {
        "objective": {"loss": "cross_entropy"},
        "method": {"kind": "gradient-tracking"},
        "step": {},
        "compression": {"kind": "random-k", "fraction": 0.3},
    },
    "d-psgd, l1": {
        "objective": {"loss": "cross_entropy", "regularizer": "l1", "strength": 0.01},
        "method": {"kind": "d-psgd", "local_steps": 3, "momentum": 0.5},
        "surrogate": {"batch": 4},
        "step": {"rule": "diminishing", "mu": 0.1},
    },
    "gradient tracking, f4, stopped early": {
        "objective": {"loss": "cross_entropy"},
        "method": {"kind": "gradient-tracking", "step_size": 0.2},
        "step": {},
        "topology": LINKS | {"consensus_steps": 2},
        "transport": {"wire_dtype": "f4"},
        "run": {"tolerance": 0.3},
    },
    "exact diffusion, a polynomial": {
        "objective": {"loss": "cross_entropy"},
        "method": {"kind": "exact-diffusion"},
        "surrogate": {"batch": 4},
        "step": {},
        "topology": {"graph": "ring", "consensus_steps": 2, "consensus": "chebyshev"},
    },
    "extra, l1, f4": {
        "objective": {"loss": "cross_entropy", "regularizer": "l1", "strength": 0.01},
        "method": {"kind": "extra"},
        "step": {},
        "topology": {"graph": "ring"},
        "transport": {"wire_dtype": "f4"},
    },
    "held out, the best one kept": {
        "objective": {"loss": "cross_entropy"},
        "data": {"validation_fraction": 0.3},
        "run": {"validation_patience": 4},
    },
    "stopped early": {"objective": {"loss": "cross_entropy"}, "run": {"tolerance": 0.3}},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sockets_and_simulation_agree_to_the_last_bit(lab: Lab, case: dict[str, Any]) -> None:
    rng = np.random.default_rng(17)
    experiment = lab.experiment(
        seed=5,
        peers=PEERS,
        iterations=ROUNDS,
        data={"path": lab.shards([(rng.normal(size=(m, 4)), np.arange(m) % 3) for m in (9, 4, 6, 11, 5)])}
        | case.get("data", {}),
        **{"topology": LINKS, "model": {"hidden": [6]}, "step": {"rule": "diminishing", "alpha": 0.4, "mu": 0.1}}
        | {key: case[key] for key in case if key != "data"},
    )
    run_dir = lab.launch(experiment)

    found = settings.read(run_dir / "experiment.toml")
    ground = config.ground(found)
    agents = Agents.of(found, ground, [learning.shard_of(found, peer) for peer in range(PEERS)])
    with threadpool_limits(1):  # as launch gives it to its peers: sums of more threads have other last bits
        played = list(agents.play())
    for peer in range(PEERS):
        lines = [json.loads(json.dumps(agents.line(peer, done))) for done in played]
        written = metrics(run_dir, peer)
        assert [without(UNLIKE, line) for line in lines] == [without(UNLIKE, line) for line in written]
        sent = [np.array([line["bytes_sent"] for line in each if line["neighbors"]]) for each in (lines, written)]
        assert np.median(sent[0] / sent[1]) == pytest.approx(1.0, abs=0.05), "in most rounds shares are all they send"
    for seed in (1, 2):
        simulated = synchronous.Run(
            replace(
                synchronous.scenario(seed),  # for its weather
                actors=agents.actors,
                initial=agents.start,
                dtype=found.transport.wire_dtype,
            )
        )
        with threadpool_limits(1):  # as launch gives it to its peers: sums of more threads have other last bits
            simulated.play()
        last = max(n for _, n in simulated.history)
        assert last == len(played)
        assert (last < ROUNDS) == (found.run.tolerance > 0.0 or found.run.validation_patience > 0)
        for peer in range(PEERS):
            assert len(metrics(run_dir, peer)) == last
            ends = regimes.everything(agents.model, validation.result(simulated.history[peer, last]))
            same = regimes.everything(agents.model, validation.result(played[-1].after[peer]))
            for name, part in parameters(run_dir, peer).items():
                assert np.array_equal(part, same[name]), f"peer {peer}, all in one process, {name}"
                assert np.array_equal(part, ends[name]), f"peer {peer}, seed {seed}, {name}"
            back = [event["n"] for event in events(run_dir, peer) if event["event"] == "backprop"]
            assert back == [state.back_n for state in [simulated.history[peer, last]] if state.back_n]
        feeds = agents.actors[0].watch is not None
        assert any(simulated.history[peer, last].back_n for peer in range(PEERS)) == feeds


def without(keys: set[str], line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in keys}
