"""The experiment file: every mistake in it is named in one line, with what is accepted."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from peer import settings
from peer.errors import ConfigError
from peer.settings import Experiment

DATA: dict[str, Any] = {"data": {"dataset": "wine"}}
TOP_K: dict[str, Any] = {"kind": "top-k"}
POLYNOMIAL: dict[str, Any] = {"consensus": "chebyshev", "consensus_steps": 2}


def tree(key: str, value: object) -> dict[str, Any]:
    """The smallest valid settings, and one more."""
    table, _, name = key.rpartition(".")
    if not table:
        return DATA | {key: value}
    return DATA | {table: {**DATA.get(table, {}), name: value}}


def refused(given: dict[str, Any], key: str) -> str:
    with pytest.raises(ConfigError) as refusal:
        settings.from_tree(given)
    text = str(refusal.value)
    assert refusal.value.key == key
    assert text.startswith(f"{key}: ")
    assert "\n" not in text
    return text


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_defaults_need_data_only() -> None:
    assert settings.from_tree(DATA).peers == 8
    assert "expected dataset" in refused({}, "data")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("iteration", "iterations"),
        ("step.alhpa", "step.alpha"),
        ("topology.shedule", "topology.schedule"),
        ("transport.adresses", "transport.addresses"),
        ("surogate", "surrogate"),
        ("strength", "objective.strength"),
        ("model.strength", "objective.strength"),
        ("objective.hiden", "model.hidden"),
        ("run.name", "name"),
        ("topology.mode", "run.mode"),
        ("run.path", "data.path or topology.path"),
    ],
)
def test_unknown_keys_name_the_nearest(key: str, nearest: str) -> None:
    assert f"did you mean {nearest}?" in refused(tree(key, 1), key)


def test_unknown_keys_without_a_near_one_name_all() -> None:
    text = refused(tree("step.qqq", 1), "step.qqq")
    assert "known here: rule, alpha, mu" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peers", "8"),
        ("peers", 8.5),
        ("peers", True),
        ("name", 3),
        ("step.alpha", "0.1"),
        ("step.alpha", [0.1]),
        ("data.standardize", 1),
        ("model.hidden", 10),
        ("model.hidden", [10.5]),
        ("model.hidden", ["10"]),
        ("surrogate.tau", [1.0]),
        ("transport.addresses", [1]),
        ("run.id", 5),
    ],
)
def test_types(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as refusal:
        settings.from_tree(tree(key, value))
    assert refusal.value.key.startswith(key)
    assert "\n" not in str(refusal.value)


def test_a_value_where_a_table_belongs() -> None:
    assert "expected a table [step]" in refused(DATA | {"step": 5}, "step")


@pytest.mark.parametrize("key", settings.RANGES)
def test_ranges(key: str) -> None:
    """Both ends are accepted as far as they are finite; nothing beyond, and no nan or infinity."""
    low, high, accepted = settings.RANGES[key]
    assert math.isinf(high) or ">" not in accepted, "who is above the upper end is told of it"
    whole = isinstance(settings.flat(Experiment())[key], int)
    beyond = [low - 1, high + 1] if math.isfinite(high) else [low - 1]
    if key in ("surrogate.tau", "step.alpha", "objective.huber_delta", "data.separation", "method.step_size"):
        beyond = [0.0, -1.0, *beyond]
    for value in beyond + ([] if whole else [math.nan, math.inf, -math.inf]):
        text = refused(tree(key, int(value) if whole else value), key)
        assert accepted in text
    for value in (end for end in (low, high) if math.isfinite(end)):
        given = tree(key, int(value) if whole else value)
        if key == "robustness.clip_w" or key == "robustness.clip_y" or key == "robustness.clip_objective":
            given["robustness"] = {"clip_w": value, "clip_y": value, "clip_objective": value}
        if key == "run.validation_patience":
            given["data"] = {**given["data"], "validation_fraction": 0.5}
        if key == "surrogate.refresh":
            given["surrogate"]["batch"] = 1
        if key == "step.mu" and value:
            given["step"]["rule"] = "diminishing"
        if key.startswith("method."):
            given["method"]["kind"] = "d-psgd"
        assert settings.flat(settings.from_tree(given))[key] == value


@pytest.mark.parametrize("key", settings.CHOICES)
def test_choices(key: str) -> None:
    text = refused(tree(key, "no such thing"), key)
    assert "'no such thing'" in text
    for choice in settings.CHOICES[key]:
        assert choice in text
        given = tree(key, choice)
        given = given | {"topology": given.get("topology", {}) | {"path": "x"}}
        if key == "step.rule" and choice == "diminishing":
            given["step"]["mu"] = 0.1
        if choice == settings.FEEDBACK_ALIGNMENT:
            given["surrogate"]["kind"] = "full"
        if choice == "chebyshev":
            given["topology"]["consensus_steps"] = 2
        if key == "data.dataset" and not choice:
            given["data"]["path"] = "{id}"
        settings.from_tree(given)


@pytest.mark.parametrize(("key", "word"), [(key, word) for key in settings.WORDS for word in settings.WORDS[key]])
def test_words_in_the_place_of_numbers(key: str, word: str) -> None:
    assert settings.flat(settings.from_tree(tree(key, word)))[key] == word
    assert f"or \"{word}\", found '{word}s'" in refused(tree(key, word + "s"), key)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"data": {"path": "shard.npz"}}, "data.path"),
        ({"data": {"path": "shard-{id.npz"}}, "data.path"),
        ({"data": {"path": "shard-{id}-{name}.npz"}}, "data.path"),
        ({"data": {"path": "shard-{id}-{}.npz"}}, "data.path"),
        ({"data": {"path": "shard-{id.name}.npz"}}, "data.path"),
        ({"data": {"path": "shard-{id[0]}.npz"}}, "data.path"),
        ({"data": {"path": "shard-{id:q}.npz"}}, "data.path"),
        (tree("name", ""), "name"),
        (tree("name", "a/b"), "name"),
        (tree("name", "a\nb"), "name"),
        (tree("name", "x" * 192), "name"),
        (tree("name", "é" * 96), "name"),
        (tree("name", "."), "name"),
        (tree("name", ".."), "name"),
        (tree("run.id", "x" * 201), "run.id"),
        (tree("model.initial", "w\udcff.npz"), "model.initial"),
        (tree("run.id", "\x1b[2J"), "run.id"),
        (tree("model.hidden", [10, 0]), "model.hidden"),
        (DATA | {"step": {"rule": "diminishing", "alpha": 0.5, "mu": 2.0}}, "step.mu"),
        (DATA | {"step": {"rule": "constant", "mu": 0.1}}, "step.mu"),
        (tree("topology.schedule", "file"), "topology.path"),
        (tree("data.test_path", "test.npz"), "data.test_path"),
        (tree("topology.directed", True), "topology.directed"),
        (tree("topology.weights", "max-degree") | {"run": {"mode": "async"}}, "topology.weights"),
        (DATA | {"topology": {"weights": "fdla", "schedule": "random-links"}}, "topology.weights"),
        (tree("topology.consensus_steps", 2) | {"run": {"mode": "async"}}, "topology.consensus_steps"),
        (tree("topology.consensus", "chebyshev") | {"run": {"mode": "async"}}, "topology.consensus"),
        (tree("topology.consensus", "chebyshev"), "topology.consensus"),
        (DATA | {"topology": POLYNOMIAL | {"schedule": "matchings"}}, "topology.consensus"),
        (DATA | {"topology": POLYNOMIAL, "robustness": {"clip_w": 0.1, "clip_y": 0.1}}, "topology.consensus"),
        (DATA | {"topology": POLYNOMIAL, "run": {"checkpoint_every": 501}}, "run.checkpoint_every"),
        (tree("topology.weights", "fdla") | {"robustness": {"clip_w": 0.1, "clip_y": 0.1}}, "topology.weights"),
        (tree("transport.addresses", ["tcp://127.0.0.1:1"]), "transport.addresses"),
        (tree("objective.lower", math.nan), "objective.lower"),
        (tree("objective.upper", -math.inf), "objective.lower"),
        (DATA | {"objective": {"lower": 1.0, "upper": 1.0}}, "objective.lower"),
        (DATA | {"objective": {"lower": 0.0, "regularizer": "group_l2"}}, "objective.regularizer"),
        (DATA | {"objective": {"regularizer": "group_l2"}, "surrogate": {"blocks": 2}}, "surrogate.blocks"),
        (tree("robustness.clip_w", 0.1), "robustness"),
        (tree("robustness.clip_y", 0.1), "robustness"),
        (tree("robustness.clip_objective", 0.1), "robustness"),
        (tree("run.validation_patience", 5), "run.validation_patience"),
        (tree("data.validation_fraction", 0.5) | {"run": {"mode": "async"}}, "data.validation_fraction"),
        (
            tree("data.validation_fraction", 0.5) | {"robustness": {"clip_w": 1.0, "clip_y": 1.0}},
            "data.validation_fraction",
        ),
        ({"data": DATA["data"] | {"validation_path": "v.npz", "validation_fraction": 0.5}}, "data"),
        ({"data": DATA["data"] | {"validation_path": "{0}.npz"}}, "data.validation_path"),
        ({"data": DATA["data"] | {"validation_path": "v.npz"}, "run": {"mode": "async"}}, "data.validation_path"),
        (
            {"data": DATA["data"] | {"validation_path": "v.npz"}, "robustness": {"clip_w": 1.0, "clip_y": 1.0}},
            "data.validation_path",
        ),
        (DATA | {"run": {"mode": "async"}, "robustness": {"clip_w": 0.1, "clip_y": 0.1}}, "robustness.clip_w"),
        (DATA | {"run": {"mode": "async"}, "compression": TOP_K}, "compression.kind"),
        (DATA | {"run": {"mode": "async"}, "transport": {"wire_dtype": "bf16"}}, "transport.wire_dtype"),
        (DATA | {"run": {"tolerance": 0.1}, "compression": TOP_K}, "compression.kind"),
        (DATA | {"run": {"tolerance": 0.1}, "transport": {"wire_dtype": "bf16"}}, "compression.kind"),
        (DATA | {"robustness": {"clip_w": 0.1, "clip_y": 0.1}, "compression": TOP_K}, "compression.kind"),
        (DATA | {"topology": POLYNOMIAL, "compression": TOP_K}, "compression.kind"),
        (tree("topology.weights", "fdla") | {"compression": TOP_K}, "compression.kind"),
        (DATA | {"transport": {"wire_dtype": "bf16"}, "compression": {"kind": "random-k"}}, "transport.wire_dtype"),
        (DATA | {"compression": {"kind": "random-k", "gamma": 0.5}}, "compression.gamma"),
        (DATA | {"method": {"kind": "choco"}, "compression": {"kind": "none"}}, "compression.kind"),
        (DATA | {"method": {"kind": "choco"}, "compression": {"kind": "random-k"}}, "compression.kind"),
        (DATA | {"method": {"kind": "extra"}, "compression": TOP_K}, "compression.kind"),
        (DATA | {"method": {"kind": "extra"}, "transport": {"wire_dtype": "bf16"}}, "compression.kind"),
        (DATA | {"run": {"mode": "async"}, "robustness": {"clip_objective": 0.1}}, "robustness.clip_objective"),
        (tree("method.step_size", 0.2), "method.step_size"),
        (tree("method.local_steps", 2), "method.local_steps"),
        (tree("method.momentum", 0.5), "method.momentum"),
        (DATA | {"method": {"kind": "gradient-descent", "local_steps": 2}}, "method.local_steps"),
        (DATA | {"method": {"kind": "gradient-tracking", "momentum": 0.5}}, "method.momentum"),
        (DATA | {"method": {"kind": "extra"}, "step": {"rule": "diminishing"}}, "step.rule"),
        (DATA | {"method": {"kind": "exact-diffusion"}, "step": {"rule": "diminishing"}}, "step.rule"),
        (
            DATA | {"method": {"kind": "d-psgd", "step_size": 5.0}, "step": {"rule": "diminishing", "mu": 0.2}},
            "step.mu",
        ),
    ],
)
def test_settings_that_do_not_fit_each_other(given: dict[str, Any], key: str) -> None:
    refused(given, key)


@pytest.mark.parametrize("key", settings.WITHOUT)
@pytest.mark.parametrize("kind", [kind for kind in settings.CHOICES["method.kind"] if kind != settings.NEXT])
def test_what_a_method_does_not_have_is_refused_and_named(kind: str, key: str) -> None:
    """Whatever setting of it is touched; batches it has."""
    given: dict[str, Any] = {"surrogate.tau": 1.0, "surrogate.blocks": 2, "step.alpha": 0.5, "run.mode": "async"}
    usual = settings.flat(Experiment())[key]
    other = next((choice for choice in settings.CHOICES.get(key, ()) if choice != usual), None)
    more = ["0.weight"] if key == "regime.trainable" else 0.5 if isinstance(usual, float) else 7
    text = refused(tree(key, given.get(key, other or more)) | {"method": {"kind": kind}}, key)
    assert settings.WITHOUT[key] in text
    assert kind in text
    batches = {"method": {"kind": kind}, "surrogate": {"batch": 3}}
    assert settings.from_tree(DATA | batches).surrogate.batch == 3


def test_who_tracks_no_gradient_does_not_know_when_to_stop() -> None:
    for kind in settings.CHOICES["method.kind"]:
        given = DATA | {"method": {"kind": kind}, "run": {"tolerance": 0.1}}
        if kind in (settings.NEXT, "gradient-tracking"):
            assert settings.from_tree(given).run.tolerance == 0.1
        else:
            assert "no agent knows the gradient" in refused(given, "run.tolerance")


@pytest.mark.parametrize("held_out", [{"validation_fraction": 0.1}, {"validation_path": "v-{id}.npz"}])
def test_patience_needs_held_out_samples_of_either_kind(held_out: dict[str, Any]) -> None:
    found = settings.from_tree({"data": DATA["data"] | held_out, "run": {"validation_patience": 5}})
    assert found.holds_out
    assert not settings.from_tree(DATA).holds_out


def test_links_have_a_direction_where_there_are_no_rounds() -> None:
    found = settings.from_tree(tree("topology.directed", True) | {"run": {"mode": "async"}})
    assert (found.topology.directed, found.run.mode, found.run.departure_s) == (True, "async", 30.0)
    refused(tree("run.departure_s", 0.0), "run.departure_s")


def test_one_peer_needs_no_pattern() -> None:
    assert settings.from_tree({"peers": 1, "data": {"path": "all.npz"}}).data.path == "all.npz"


# ---- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"peers = ", "expected TOML"),
        (b"[data\n", "expected TOML"),
        (b"\xff\xfe", "expected TOML"),
        (b"peers = 1\npeers = 2\n", "expected TOML"),
        (None, "expected an experiment file"),
    ],
)
def test_files_that_are_no_experiment(content: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as refusal:
        settings.read(path)
    assert str(path) in str(refusal.value)
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_of_an_editor_that_marks_its_bytes_and_ends_lines_with_two(tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "here"\r\n[data]\r\ndataset = "wine"\r\n')
    assert settings.read(path).name == "here"


def test_a_folder_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected an experiment file"):
        settings.read(tmp_path)


def test_paths_are_relative_to_the_file_and_in_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    text = '[data]\npath = "s/{id}.npz"\ntest_path = "/abs/test.npz"\nvalidation_path = "v-{id}.npz"\n'
    path = write(tmp_path, text + '[transport]\nkeys = "k"\n')
    experiment = settings.read(path, ["model.initial=w.npz", "transport.keys=../other"])
    assert experiment.data.path == str(tmp_path / "s/{id}.npz")
    assert experiment.data.test_path == "/abs/test.npz"
    assert experiment.data.validation_path == str(tmp_path / "v-{id}.npz")
    assert experiment.model.initial == str(here / "w.npz")
    assert experiment.transport.keys == str(here / "../other")
    assert experiment.topology.path == ""


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, 'peers = 3\n[data]\ndataset = "wine"\n[step]\nalpha = 0.2\n')
    given = [
        "peers=5",
        "step.rule=diminishing",
        "step.mu = 0.5",
        "model.hidden=[3, 4]",
        'name="a b"',
        "run.id=",
        "seed=1",
    ]
    experiment = settings.read(path, given)
    assert (experiment.peers, experiment.step.rule, experiment.step.mu, experiment.step.alpha) == (
        5,
        "diminishing",
        0.5,
        0.2,
    )
    assert (experiment.model.hidden, experiment.name, experiment.run.id, experiment.seed) == ((3, 4), "a b", "", 1)
    assert settings.read(path, ["peers=4", "peers=6"]).peers == 6


@pytest.mark.parametrize("given", ["peers", "=5", " = 5", ""])
def test_overrides_of_another_form(given: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--set: expected key=value"):
        settings.read(write(tmp_path, '[data]\ndataset = "wine"\n'), [given])


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (["step.alhpa=1"], "step.alhpa"),
        (["step=1"], "step"),
        (["step=1", "step.alpha=0.5"], "--set"),
        (["step.alpha.more=1"], "step.alpha"),
        (["peers=many"], "peers"),
        (["step..alpha=1"], "step."),
        (["peers=\udcff"], "--set"),
    ],
)
def test_overrides_are_checked(given: list[str], key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        settings.read(write(tmp_path, '[data]\ndataset = "wine"\n'), given)
    assert refusal.value.key == key


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    text = (
        'name = "ä \\"quoted\\""\npeers = 2\n[data]\npath = "/x/{id}.npz"\n[model]\nhidden = []\n'
        '[surrogate]\ntau = 0.25\n[transport]\naddresses = ["tcp://a:1", "tcp://b:2"]\n[software]\nnumpy = "2.0"\n'
    )
    experiment = settings.read(write(tmp_path, text))
    again = settings.read(write(tmp_path, settings.to_toml(experiment)))
    assert again == experiment
    assert experiment.surrogate.tau == 0.25
    written = tomllib.loads(settings.to_toml(experiment))
    assert written["run"]["patience_s"] == 60.0, "with the defaults filled in"


def test_the_built_in_experiment_is_valid() -> None:
    path = Path(settings.__file__).parents[1] / "default.toml"
    assert settings.read(path).data.dataset == "breast-cancer"


def test_only_rounds_clip_and_the_refusal_says_so() -> None:
    given = DATA | {"run": {"mode": "async"}, "robustness": {"clip_w": 0.1, "clip_y": 0.1}}
    assert "only rounds clip; found 0.1" in refused(given, "robustness.clip_w")


def test_only_rounds_stop_early() -> None:
    assert settings.from_tree(tree("run.tolerance", 1e-6)).run.tolerance == 1e-6
    assert "never stop early" in refused(tree("run.tolerance", -1e-6), "run.tolerance")
    assert "never stop early" in refused(tree("run.tolerance", float("inf")), "run.tolerance")
    found = refused(DATA | {"run": {"mode": "async", "tolerance": 1e-6}}, "run.tolerance")
    assert 'expected 0 with mode = "async", for only rounds stop early; found 1e-06' in found


def test_only_rounds_are_inexact() -> None:
    assert settings.from_tree(tree("surrogate.inexactness", 0.1)).surrogate.inexactness == 0.1
    assert "every solve to surrogate.tolerance" in refused(tree("surrogate.inexactness", -1.0), "surrogate.inexactness")
    found = refused(DATA | {"run": {"mode": "async"}, "surrogate": {"inexactness": 0.1}}, "surrogate.inexactness")
    assert 'expected 0 with mode = "async", which has no schedule of rounds; found 0.1' in found


# ---- what peers share ----------------------------------------------------------------------


def test_what_all_peers_must_share() -> None:
    one = settings.from_tree(DATA)
    shared = settings.shared(one, **{"columns of x": 13})
    assert shared["step.alpha"] == "'auto'"
    assert shared["columns of x"] == "13"
    assert not settings.LOCAL & shared.keys()
    assert all(isinstance(value, str) for value in shared.values())
    for key in settings.LOCAL:
        assert key in settings.flat(one), "a typo would make it shared"


def test_where_things_are_may_differ_but_not_what_they_are() -> None:
    one = settings.shared(settings.from_tree(DATA | {"name": "a"}))
    assert settings.shared(settings.from_tree(DATA | {"name": "b", "transport": {"keys": "k"}})) == one
    assert settings.shared(settings.from_tree(DATA | {"seed": 1})) != one
    assert settings.shared(settings.from_tree(DATA | {"robustness": {"clip_w": 1.0, "clip_y": 1.0}})) != one
    versions = DATA | {"software": {"numpy": "1"}}
    assert settings.shared(settings.from_tree(versions)) == one


@pytest.mark.parametrize(
    "address",
    [
        *("", "127.0.0.1:5555", "udp://a:1", "tcp://a", "tcp://:5555", "tcp://a:b", "tcp://a:70000"),
        *("tcp://a:1/x", "tcp://a b:1", "tcp://u@a:1", "tcp://::1:5555", "tcp://[::1:5"),
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    text = refused(tree("transport.addresses", [address] * 8), "transport.addresses")
    assert "tcp://host:port" in text
    if address:
        refused(tree("transport.bind", address), "transport.bind")


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("tcp://10.0.0.1:5555", "10.0.0.1", 5555),
        ("tcp://[fd00::1]:80", "fd00::1", 80),
        ("tcp://peer-0.lab:1", "peer-0.lab", 1),
        ("tcp://*:5555", "*", 5555),
    ],
)
def test_addresses(address: str, host: str, port: int) -> None:
    assert settings.split_address(address, "transport.bind") == (host, port)


def test_one_address_with_id_stands_for_all() -> None:
    found = settings.from_tree(tree("transport.addresses", ["tcp://peer-{id}.lab:5555"]))
    assert found.transport.addresses == tuple(f"tcp://peer-{peer}.lab:5555" for peer in range(8))
    refused(tree("transport.addresses", ["tcp://a:1"]), "transport.addresses")


def test_auto_is_the_default_and_numbers_are_taken_as_they_are() -> None:
    experiment = settings.from_tree(DATA)
    assert experiment.surrogate.tau == experiment.surrogate.curvature == "auto"
    assert experiment.step.rule == experiment.step.alpha == "auto"
    assert settings.from_tree(tree("step.alpha", 0.3)).step.alpha == 0.3
    assert settings.from_tree(tree("surrogate.tau", 2)).surrogate.tau == 2.0


def test_feedback_is_for_the_full_surrogate_and_never_stops_by_a_residual() -> None:
    given = tree("surrogate.gradient", settings.FEEDBACK_ALIGNMENT)
    assert 'expected backprop with kind = "partial", as the partial surrogate needs the true Jacobian' in refused(
        given, "surrogate.gradient"
    )
    given["surrogate"]["kind"] = "full"
    assert settings.from_tree(given).surrogate.fallback == 0.1
    assert "may vanish where no gradient does; found 0.1" in refused(
        given | {"run": {"tolerance": 0.1}}, "run.tolerance"
    )


def test_mu_needs_diminishing_steps() -> None:
    assert 'expected 0 with rule = "auto"' in refused(tree("step.mu", 0.1), "step.mu")
    given = tree("step.mu", 1.0)
    given["step"]["rule"] = "diminishing"
    assert "0 <= mu < 1/alpha" in refused(given, "step.mu"), "alpha may be 1"


@pytest.mark.parametrize(("dtype", "kind"), [("f8", "none"), ("f4", "none"), ("bf16", "difference")])
def test_only_bf16_is_of_differences_unasked(dtype: str, kind: str) -> None:
    assert settings.from_tree(DATA | {"transport": {"wire_dtype": dtype}}).compression_kind == kind
    given = DATA | {"transport": {"wire_dtype": dtype}, "compression": {"kind": "none"}}
    assert settings.from_tree(given).compression_kind == "none"
