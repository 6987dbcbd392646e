"""A docker-compose file for an experiment, a container a peer. Starts nothing."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from peer import shards
from peer.errors import ConfigError
from peer.settings import Experiment

PORT: Final = 5555
"""Every peer listens on it, each in a container of its own."""

MAX_CONTAINERS: Final = 512
"""The image has mount points that belong to its user for so many shards and keys; a host runs no more anyway."""

MEMORY: Final = re.compile(r"(?=.*[1-9])[0-9]{1,15}(\.[0-9]{1,9})?[kKmMgGtTpP]?[iI]?[bB]?")
"""A limit, as engines read it."""

IMAGE: Final = re.compile(r"\S+")
"""Name of an image, as far as a compose file has to be sure of it."""

SHARDS: Final = "/shards/{id}"
SHARD: Final = SHARDS + "/peer-{id:03d}.npz"
TEST: Final = "/shards/test/test.npz"
KEYS: Final = "/keys/{id}"
"""Where a container finds what is its own; a folder each, for a volume each."""

HEADER: Final = """\
# {name}: {n} peers, a container each. `docker-compose up` is all it takes.
# Written by `{command}`.
#
#   prepare     cuts the shards, makes the keys, and writes the record of the run; once
#   peer-0 ...  train; each sees its own shard and its own key, read-only, and nobody else's; all write the results
#   summary     waits until all are done, then writes summary.json and report.html
#
# To see the results:  docker cp "$(docker-compose ps -aq summary)":/results results
# To start all over:   docker-compose down --volumes
"""

ROLES: Final = """
x-role: &role
  image: {image}
  read_only: true
  tmpfs: [/tmp]
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]

x-peer: &peer
  <<: *role
  command: [run, /results/experiment.toml, --out=/results, --resume]
  depends_on: {{prepare: {{condition: service_completed_successfully}}}}
  restart: on-failure:10  # {again}
  stop_grace_period: 15s  # {stop}
  dns_opt: ["timeout:1", "attempts:1"]  # a name that cannot be looked up must not hold up what else there is
  mem_limit: {memory}
  cpus: {cpus}

services:
  prepare:
    <<: *role
{build}    network_mode: none
    healthcheck: {{disable: true}}
"""

ONE: Final = """
  peer-{peer}:
    <<: *peer
    environment: {{PEER_ID: "{peer}"}}
"""

IN_ROUNDS: Final = {
    "again": "it goes on from its last checkpoint, and the others wait for it",
    "stop": "it writes a checkpoint",
}
WITHOUT_ROUNDS: Final = {
    "again": "it returns from its last checkpoint; the others go on meanwhile",
    "stop": "it leaves, with a checkpoint: `docker-compose stop peer-0`; with `start` it returns",
}
"""What becomes of a peer that dies, and of one that is stopped."""

SUMMARY: Final = """
  summary:
    <<: *role
    command: [report, /results, --wait]
    depends_on: {prepare: {condition: service_completed_successfully}}
    network_mode: none
    healthcheck: {disable: true}
"""


@final
@dataclass(frozen=True)
class Containers:
    """How the containers are to be, beside what the experiment says.

    Parameters
    ----------
    image : str
        Name of the image.
    context : str
        Folder with the Dockerfile that it is built from; empty where it is to be pulled.
    memory : str
        What a peer may use of it, as Docker writes it: "512m".
    cpus : float
        Processors that a peer may use.
    """

    image: str
    context: str
    memory: str
    cpus: float


def text(
    experiment: Experiment, file: Path, containers: Containers, folder: Path, overrides: Sequence[str] = ()
) -> str:
    """The compose file.

    Parameters
    ----------
    experiment : Experiment
        As `settings.read` gives it.
    file : Path
        Where it was read from.
    containers : Containers
    folder : Path
        Where the compose file will be: its paths are relative to this folder.
    overrides : sequence of str
        "key=value" each, with which it was read; the first container reads it with them, too.

    Raises
    ------
    ConfigError
        More peers than there can be containers, security = "none", or no number of processors.
    """
    n = experiment.peers
    if n > MAX_CONTAINERS:
        raise ConfigError("peers", f"expected at most {MAX_CONTAINERS} containers on one host, found {n}")
    if experiment.transport.security != "curve":
        raise ConfigError("transport.security", "expected curve: none is for addresses of the loopback only")
    if not containers.cpus > 0.0 or math.isinf(containers.cpus):  # written so that nan is refused too
        raise ConfigError("--cpus", f"expected a number > 0, found {containers.cpus}")
    if not MEMORY.fullmatch(containers.memory):
        raise ConfigError("--memory", f"expected a size as in 500m or 1g, found {containers.memory!r}")
    if not IMAGE.fullmatch(containers.image):
        raise ConfigError("--image", f"expected the name of an image, found {containers.image!r}")
    cut = bool(experiment.data.dataset)
    own, test = _shards(experiment, folder)
    keys = [f"key-{peer}:{KEYS.format(id=peer)}" for peer in range(n)]
    inputs = _inputs(experiment, folder)
    for_all = [mount for mounts in inputs for mount in mounts]
    readable = own if cut else _read_only(own)
    source = f"{_relative(file, folder)}:/experiment.toml:ro"
    settings = {"data.path": SHARD, "data.test_path": TEST if test else "", "transport.keys": KEYS}
    settings |= {"transport.addresses": f"['tcp://peer-{{id}}:{PORT}']", "transport.bind": ""}
    settings |= _places(experiment)
    command = ["prepare", "/experiment.toml", "--out=/results"]
    command += [f"--set={item}" for item in (*overrides, *(f"{key}={value}" for key, value in settings.items()))]
    prepares = [source, "results:/results", *dict.fromkeys(for_all), *readable, *(test if cut else _read_only(test))]
    build = f"    build: {_quoted(containers.context)}\n" if containers.context else ""
    parts = [
        HEADER.format(name=experiment.name, n=n, command=_said(_relative(file, folder), overrides)),
        ROLES.format(
            image=_quoted(containers.image),
            memory=_quoted(containers.memory),
            cpus=containers.cpus,
            build=build,
            **(IN_ROUNDS if experiment.run.mode == "rounds" else WITHOUT_ROUNDS),
        ),
        _sequence("command", command),
        _sequence("volumes", prepares + keys),
    ]
    for peer in range(n):
        mine = _read_only([own[peer], keys[peer]])
        parts += [ONE.format(peer=peer), _sequence("volumes", ["results:/results", *mine, *inputs[peer]], short=True)]
    seen = ["results:/results", *dict.fromkeys(for_all), *_read_only(own + test)]
    parts += [SUMMARY, _sequence("volumes", seen)]
    volumes = [mount.partition(":")[0] for mount in ["results:", *(own + test if cut else []), *keys]]
    return "".join([*parts, "\nvolumes:\n", *(f"  {volume}:\n" for volume in volumes)])


def _shards(experiment: Experiment, folder: Path) -> tuple[list[str], list[str]]:
    """Mounts of the peers' shards, and of the test set if there is one: volumes to be cut into, or given files."""
    data, peers = experiment.data, range(experiment.peers)
    if data.dataset:
        volumes = [f"shard-{peer}:{SHARDS.format(id=peer)}" for peer in (*peers, "test")]
        return volumes[:-1], volumes[-1:] if data.test_fraction else []
    files = [f"{_relative(shards.path_of(data.path, peer), folder)}:{SHARD.format(id=peer)}" for peer in peers]
    return files, [f"{_relative(Path(data.test_path), folder)}:{TEST}"] if data.test_path else []


def _inputs(experiment: Experiment, folder: Path) -> list[list[str]]:
    """Mounts of the other files that an experiment names, by peer."""
    initial, schedule, validation = _others(experiment)
    places = _places(experiment)
    found: list[list[str]] = []
    for peer in range(experiment.peers):
        named = {
            "model.initial": initial.replace("{id}", str(peer)),
            "topology.path": schedule,
            "data.validation_path": str(shards.path_of(validation, peer)) if validation else "",
        }
        pairs = ((path, places[key].replace("{id}", str(peer))) for key, path in named.items() if path)
        found.append([f"{_relative(Path(path), folder)}:{place}:ro" for path, place in pairs])
    return found


def _others(experiment: Experiment) -> tuple[str, str, str]:
    return experiment.model.initial, experiment.topology.path, experiment.data.validation_path


def _places(experiment: Experiment) -> dict[str, str]:
    """Where containers find the other files that an experiment names."""
    initial, schedule, validation = _others(experiment)
    places = {"model.initial": f"/inputs/initial{'-{id}' if '{id}' in initial else ''}.npz"} if initial else {}
    if validation:
        places["data.validation_path"] = f"/inputs/validation{'-{id}' if '{id' in validation else ''}.npz"
    return places | ({"topology.path": "/inputs/schedule.jsonl"} if schedule else {})


def _read_only(mounts: Iterable[str]) -> list[str]:
    return [f"{mount}:ro" for mount in mounts]


def _relative(path: Path, folder: Path) -> str:
    """A path as compose takes it: with ./ in front, else it would be the name of a volume."""
    found = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    if ":" in found or not found.isprintable():
        raise ConfigError(str(path), "expected a path without a colon, for a container to mount it")
    return found if found.startswith("../") else f"./{found}"


def _said(file: str, overrides: Iterable[str]) -> str:
    """What was called, on one line whatever the settings are."""
    command = shlex.join(["peer", "compose", file, *(word for item in overrides for word in ("--set", item))])
    return command if command.isprintable() else json.dumps(command)


def _quoted(text: str) -> str:
    """A YAML string; what compose would take for a variable, escaped."""
    return json.dumps(text.replace("$", "$$"), ensure_ascii=False)


def _sequence(key: str, items: Sequence[str], short: bool = False) -> str:
    """A list of a service."""
    quoted = [_quoted(item) for item in items]
    if short:
        return f"    {key}: [{', '.join(quoted)}]\n"
    return f"    {key}:\n" + "".join(f"      - {item}\n" for item in quoted)
