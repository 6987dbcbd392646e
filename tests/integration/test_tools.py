"""Real runs on their way into other tools, and the comforts of the command line."""

from __future__ import annotations

import signal
import tomllib
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

import peer
from peer import export, npz, standardization
from peer.__main__ import cli
from peer.openmetrics import CONTENT_TYPE
from peer.standardization import Scale, Standardization
from tests.integration.lab import Lab, end, free_addresses, metrics, refusal, same_finals, wait_until

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its own, while it is imported
    from onnx.reference import ReferenceEvaluator

EXAMPLES = Path(__file__).parents[2] / "examples"


def experiment(lab: Lab, name: str = "tiny", **tree: Any) -> Path:
    settings = {"peers": 4, "iterations": 8, "data": {"path": lab.four_shards()}, "topology": {"graph": "ring"}}
    return lab.experiment(name, **settings | {"objective": {"loss": "cross_entropy"}} | tree)


def scraped(port: int) -> list[Sample]:
    """Samples of a page, none where nobody serves it yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5.0) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            text = answer.read().decode()
    except OSError:
        return []
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return [sample for family in families for sample in family.samples]


def free_port() -> int:
    return int(free_addresses(1)[0].rpartition(":")[2])


def test_a_network_of_images_computes_the_same_elsewhere(lab: Lab) -> None:
    rng, model = np.random.default_rng(3), tomllib.loads((EXAMPLES / "digits-cnn.toml").read_text())["model"]
    raw = 5.0 + 4.0 * rng.normal(size=(40, 64))
    scale = Scale.of(raw)
    pattern = lab.shards([(scale.applied(raw[k::2]), np.arange(20) % 10) for k in range(2)])
    npz.save(lab.folder / "shards" / standardization.NAME, Standardization(scale).arrays)
    more = {"objective": {"loss": "cross_entropy"}, "surrogate": {"kind": "full"}, "topology": {"graph": "complete"}}
    run_dir = lab.launch(
        lab.experiment("cnn", peers=2, iterations=2, data={"path": pattern}, model=model, **more), "out"
    )
    done = lab.run("export", "out", "--format", "onnx", "--softmax", "--out", "cnn.onnx", "--dtype", "float64")
    assert (done.returncode, done.stdout, done.stderr) == (0, "cnn.onnx\n", "")
    expected = peer.load_model(run_dir).predict(scale.applied(raw))
    logits, probabilities = map(np.asarray, ReferenceEvaluator(str(lab.folder / "cnn.onnx")).run(None, {"x": raw}))
    np.testing.assert_allclose(logits, expected, rtol=0.0, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    export.write(run_dir, "onnx")
    (single,) = ReferenceEvaluator(str(run_dir / "model.onnx")).run(None, {"x": raw.astype(np.float32)})
    np.testing.assert_allclose(np.asarray(single), expected, rtol=0.0, atol=1e-6 * np.abs(expected).max())
    assert "--force replaces it" in refusal(lab.run("export", "out", "--format", "onnx"), 2)


def test_numbers_go_elsewhere_and_no_bit_of_the_run_changes(lab: Lab) -> None:
    plain = lab.launch(experiment(lab), "plain")
    shown = lab.launch(experiment(lab, metrics={"tensorboard": "events", "openmetrics": free_port()}), "shown")
    same_finals(plain, shown, 4)
    (events,) = (lab.folder / "events").iterdir()
    assert sorted(path.name for path in events.iterdir()) == ["network", *(f"peer-{k:03d}" for k in range(4))]
    assert all(path.stat().st_size > 1_000 for path in events.glob("*/events.*"))


def test_a_peer_serves_its_own_numbers_while_it_runs_and_a_follower_those_of_all(lab: Lab) -> None:
    addresses, ports = free_addresses(2), [free_port(), free_port()]
    data = [(np.ones((2, 2)), np.zeros(2, dtype=int)), (np.eye(2), np.ones(2, dtype=int))]
    security = {"transport": {"addresses": addresses, "security": "none"}}
    path = lab.experiment("two", peers=2, iterations=10**6, data={"path": lab.shards(data)}, **security)
    serving = lab.start("run", path, "--id", "0", "--out", "out", "--set", f"metrics.openmetrics={ports[0]}")
    silent = lab.start("run", path, "--id", "1", "--out", "out")
    follower = None
    try:
        wait_until(lambda: len(metrics(lab.folder / "out", 0)) > 3, serving)
        found = {sample.name: sample for sample in scraped(ports[0])}
        assert found["next_peer_rounds_total"].value >= 3
        assert found["next_peer_rounds_total"].labels == {"run": "two", "peer": "0"}
        assert found["next_peer_sent_bytes_total"].value > 0
        follower = lab.start("follow", "out", "--openmetrics", str(ports[1]))
        wait_until(lambda: {one.labels["peer"] for one in scraped(ports[1])} == {"0", "1"}, follower)
        taken = lab.run("follow", "out", "--openmetrics", str(ports[1]))
        assert f"cannot listen on 127.0.0.1:{ports[1]}" in refusal(taken, 2)
    finally:
        codes = [end(process, signal.SIGTERM)[0] for process in (serving, silent, *([follower] if follower else []))]
    assert codes == [130, 130, 0]


def test_a_peer_that_cannot_serve_does_not_start(lab: Lab) -> None:
    address, port = free_addresses(1)[0], free_port()
    path = lab.experiment(
        "one",
        peers=1,
        data={"path": lab.shards([(np.eye(2), np.arange(2))])},
        transport={"addresses": [address], "security": "none"},
        metrics={"openmetrics": f"192.0.2.1:{port}"},
    )
    assert f"cannot listen on 192.0.2.1:{port}" in refusal(lab.run("run", path, "--id", "0", "--out", "out"), 2)


def test_an_experiment_file_to_begin_with_is_one(lab: Lab) -> None:
    done = lab.run("init")
    assert (done.returncode, done.stdout) == (0, "experiment.toml\n")
    text = (lab.folder / "experiment.toml").read_text()
    checked = lab.run("check", "experiment.toml")
    assert checked.returncode == 0, checked.stderr
    resolved, given = tomllib.loads(checked.stdout), tomllib.loads(text)
    assert resolved["name"] == "experiment"
    assert resolved["seed"] == given["seed"]
    assert resolved["data"]["dataset"] == given["data"]["dataset"] == "breast-cancer"
    assert "--force replaces it" in refusal(lab.run("init"), 2)


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_shows_examples(name: str) -> None:
    text = cli.commands[name].get_help(click.Context(cli.commands[name], info_name=name))
    assert f"\n  peer {name}" in text.partition("Options:")[0] or f"$(peer {name}" in text
