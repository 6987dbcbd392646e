"""The compose file: what it says without an engine; `tests/containers` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from peer import compose, settings
from peer.__main__ import cli
from peer.compose import Containers
from peer.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONTAINERS = Containers("next-peer", ".", "512m", 1.0)


def text(folder: Path, **tree: Any) -> str:
    file = folder / "experiment.toml"
    experiment = settings.from_tree({"peers": 3, "data": {"dataset": "wine"}} | tree)
    return compose.text(experiment, file, CONTAINERS, folder)


def test_the_file_in_the_repository_is_that_of_the_default_experiment() -> None:
    file = ROOT / "peer" / "default.toml"
    assert (ROOT / "docker-compose.yml").read_text() == compose.text(settings.read(file), file, CONTAINERS, ROOT)


def test_every_peer_mounts_its_own_shard_and_key_only_and_only_to_read(tmp_path: Path) -> None:
    services = yaml.safe_load(text(tmp_path))["services"]
    assert list(services) == ["prepare", "peer-0", "peer-1", "peer-2", "summary"]
    for peer in range(3):
        service = services[f"peer-{peer}"]
        assert service["volumes"] == [
            "results:/results",
            f"shard-{peer}:/shards/{peer}:ro",
            f"key-{peer}:/keys/{peer}:ro",
        ]
        assert service["environment"] == {"PEER_ID": str(peer)}
        assert service["restart"].startswith("on-failure")
        assert "build" not in service, "the image is built once"
    assert not any("key" in volume for volume in services["summary"]["volumes"])
    assert all(volume.endswith(":ro") for volume in services["summary"]["volumes"][1:])


def test_every_volume_is_declared_and_used(tmp_path: Path) -> None:
    found = yaml.safe_load(text(tmp_path, data={"dataset": "wine", "test_fraction": 0.0}))
    named = {mount.partition(":")[0] for service in found["services"].values() for mount in service["volumes"]}
    assert named == {*found["volumes"], "./experiment.toml"}
    assert "shard-test" not in named


def test_files_that_an_experiment_names_come_along(tmp_path: Path) -> None:
    found = yaml.safe_load(
        text(
            tmp_path,
            data={
                "path": str(tmp_path / "cut/peer-{id}.npz"),
                "test_path": str(tmp_path / "cut/test.npz"),
                "validation_path": str(tmp_path / "held/{id:02d}.npz"),
            },
            model={"initial": str(tmp_path / "start-{id}.npz")},
            topology={"schedule": "file", "path": str(tmp_path / "my$links.jsonl")},
        )
    )
    services = found["services"]
    links = "./my$$links.jsonl:/inputs/schedule.jsonl:ro"
    assert services["peer-1"]["volumes"] == [
        "results:/results",
        "./cut/peer-1.npz:/shards/1/peer-001.npz:ro",
        "key-1:/keys/1:ro",
        "./start-1.npz:/inputs/initial-1.npz:ro",
        links,
        "./held/01.npz:/inputs/validation-1.npz:ro",
    ]
    assert services["prepare"]["volumes"].count(links) == 1
    assert {f"./start-{peer}.npz:/inputs/initial-{peer}.npz:ro" for peer in range(3)} <= set(
        services["prepare"]["volumes"]
    )
    assert list(found["volumes"]) == ["results", "key-0", "key-1", "key-2"]
    sets = [word for word in services["prepare"]["command"] if word.startswith("--set")]
    assert "--set=model.initial=/inputs/initial-{id}.npz" in sets
    assert "--set=topology.path=/inputs/schedule.jsonl" in sets
    assert "--set=data.validation_path=/inputs/validation-{id}.npz" in sets


def test_the_settings_of_the_containers_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text('peers = 3\n[data]\ndataset = "wine"\n')
    command = yaml.safe_load(text(tmp_path))["services"]["prepare"]["command"]
    found = settings.read(file, [word.removeprefix("--set=") for word in command if word.startswith("--set=")])
    assert found.transport.addresses == tuple(f"tcp://peer-{peer}:5555" for peer in range(3))
    assert found.data.path == "/shards/{id}/peer-{id:03d}.npz"
    assert found.transport.keys == "/keys/{id}"
    assert found.transport.bind == ""


def test_the_containers_run_what_the_options_have_made_of_the_experiment(tmp_path: Path) -> None:
    file, initial = tmp_path / "my experiment.toml", tmp_path / "start.npz"
    file.write_text('peers = 3\n[data]\ndataset = "wine"\n')
    np.savez(initial, **{"layers.0.weight": np.zeros((3, 13)), "layers.0.bias": np.zeros(3)})  # type: ignore[arg-type]
    overrides = ["peers=4", "model={hidden = []}", f"model.initial={initial}", "name=with $x", "transport.keys=keys"]
    options = [word for item in overrides for word in ("--set", item)]
    found = CliRunner().invoke(cli, ["compose", str(file), *options], standalone_mode=False)
    assert found.exception is None
    assert "--set peers=4 --set 'model={hidden = []}'" in found.stdout, "it says how it was written"
    services = yaml.safe_load(found.stdout.replace("$$", "$"))["services"]
    assert [name for name in services if name.startswith("peer-")] == [f"peer-{peer}" for peer in range(4)]
    words = [word.removeprefix("--set=") for word in services["prepare"]["command"] if word.startswith("--set=")]
    here, there = settings.read(file, overrides), settings.read(file, words)
    assert settings.shared(there) == settings.shared(here)
    assert (there.name, there.peers) == ("with $x", 4)
    assert (there.model.initial, there.transport.keys) == ("/inputs/initial.npz", "/keys/{id}")


def test_an_option_of_several_lines_stays_in_its_comment(tmp_path: Path) -> None:
    experiment = settings.from_tree({"data": {"dataset": "wine"}, "model": {"hidden": [3]}})
    overrides = ["model.hidden=[\n3]"]
    found = yaml.safe_load(compose.text(experiment, tmp_path / "x.toml", CONTAINERS, tmp_path, overrides))
    assert "--set=model.hidden=[\n3]" in found["services"]["prepare"]["command"]


def test_paths_are_relative_to_the_folder_of_the_compose_file(tmp_path: Path) -> None:
    experiment = settings.from_tree({"data": {"dataset": "wine"}})
    found = compose.text(experiment, tmp_path / "a" / "x.toml", CONTAINERS, tmp_path / "b")
    assert '"../a/x.toml:/experiment.toml:ro"' in found


@pytest.mark.parametrize(
    ("tree", "key"), [({"peers": 513}, "peers"), ({"transport": {"security": "none"}}, "transport.security")]
)
def test_what_cannot_be_in_containers_is_refused(tree: dict[str, Any], key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        text(tmp_path, **tree)
    assert refusal.value.key == key


@pytest.mark.parametrize("cpus", [0.0, -1.0, float("nan"), float("inf")])
def test_processors_that_are_no_number_are_refused(cpus: float, tmp_path: Path) -> None:
    experiment = settings.from_tree({"data": {"dataset": "wine"}})
    with pytest.raises(ConfigError) as refusal:
        compose.text(experiment, tmp_path / "x.toml", Containers("next-peer", ".", "512m", cpus), tmp_path)
    assert refusal.value.key == "--cpus"


def test_the_image_has_a_mount_point_for_every_peer() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"seq 0 {compose.MAX_CONTAINERS - 1} " in dockerfile


def test_without_rounds_a_peer_leaves_and_returns(tmp_path: Path) -> None:
    found = text(tmp_path, run={"mode": "async"})
    services = yaml.safe_load(found)["services"]
    peer = services["peer-1"]
    assert peer["command"] == ["run", "/results/experiment.toml", "--out=/results", "--resume"]
    assert peer["restart"] == "on-failure:10", "one that was killed returns; one that was stopped, or is done, stays so"
    assert "the others wait" not in found
    assert services == yaml.safe_load(text(tmp_path))["services"], "only comments differ"


@pytest.mark.parametrize(
    ("image", "memory", "key"), [("", "1g", "--image"), ("a b", "1g", "--image"), ("next-peer", "much", "--memory")]
)
def test_what_no_engine_takes_is_refused(image: str, memory: str, key: str, tmp_path: Path) -> None:
    experiment = settings.from_tree({"data": {"dataset": "wine"}})
    with pytest.raises(ConfigError) as refusal:
        compose.text(experiment, tmp_path / "x.toml", Containers(image, ".", memory, 1.0), tmp_path)
    assert refusal.value.key == key


@pytest.mark.parametrize("memory", ["512m", "1.5g", "1GiB", "0.5G", "536870912"])
def test_sizes_are_those_that_engines_take(memory: str, tmp_path: Path) -> None:
    experiment = settings.from_tree({"data": {"dataset": "wine"}})
    found = compose.text(experiment, tmp_path / "x.toml", Containers("next-peer", ".", memory, 1.0), tmp_path)
    assert yaml.safe_load(found)["services"]["peer-0"]["mem_limit"] == memory
