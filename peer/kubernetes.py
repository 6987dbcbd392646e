"""Manifests for Kubernetes: one pod a peer, each with a stable name, a claim for its shard and its own key only.

What a cluster would not take is refused here; the text itself is that of `peer.manifests`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from peer import config, keys, settings
from peer.errors import ConfigError
from peer.manifests import EXPERIMENT, KEYS, PORT, SHARDS, Cluster, Documents
from peer.settings import Experiment
from peer.transport import public_of
from topology import PeerId

MAX_NAME: Final = 52
"""Of a StatefulSet: its pods carry the label `controller-revision-hash`, the name, a dash and 10 characters, of at
most 63 (kubernetes/kubernetes#64023). It leaves room for the ordinal in a pod's name, and for `-summary`."""

MAX_OBJECT_BYTES: Final = 1 << 20
"""Of the values in a ConfigMap or Secret; the API server takes no more. This is what bounds the number of peers: with
its address and public key each takes 90 bytes where the experiment's name is short and 200 where it is long, so
5,000 to 12,000 of them fit."""

MIN_PATIENCE_S: Final = 600.0
"""A container that ended is started again after up to 300 s. Peers that waited for each other for less would
take turns at being there."""

IMAGE: Final = re.compile(
    r"([a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?/)?"  # registry
    r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
    r"(:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
"""Reference of an image, as registries take it."""

LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Name of a namespace: a label of the DNS, RFC 1123."""

SUBDOMAIN: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
"""Name of a storage class: labels with dots between."""

QUANTITY: Final = re.compile(r"[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?")
"""Size of a claim."""


def check(experiment: Experiment, cluster: Cluster) -> None:
    """Check what no other part of the program does.

    Raises
    ------
    ConfigError
        Peers without keys, held-out samples in files of their own, or an option that the cluster would not take.
    """
    if experiment.transport.security != "curve":
        found = experiment.transport.security
        raise ConfigError("transport.security", f"expected curve: pods talk over the cluster's network; found {found}")
    if experiment.data.validation_path:
        found = f"found {experiment.data.validation_path!r}"
        advice = "expected none, as pods are handed no samples but their shards; use data.validation_fraction"
        raise ConfigError("data.validation_path", f"{advice}; {found}")
    for key, value, pattern, accepted in (
        ("--image", cluster.image, IMAGE, "a reference as in registry.example.org/next-peer:0.1.0"),
        ("--namespace", cluster.namespace, LABEL, "1 to 63 of a-z, 0-9 and -, as in my-lab"),
        ("--storage", cluster.storage, QUANTITY, "a size as in 500Mi or 1Gi"),
        ("--storage-class", cluster.storage_class, SUBDOMAIN, "the name of a storage class"),
        ("--results-class", cluster.results_class, SUBDOMAIN, "the name of a storage class"),
    ):
        optional = key in ("--namespace", "--storage-class", "--results-class")
        if not (optional and not value) and (len(value) > 512 or not pattern.fullmatch(value)):
            raise ConfigError(key, f"expected {accepted}, found {value!r}")


def name_of(experiment: Experiment) -> str:
    """Name of all objects of an experiment: a label of the DNS that begins with a letter, as Services want it.

    What is cut off, or has no letter that a label may hold, is replaced by a digest.
    """
    plain = unicodedata.normalize("NFKD", experiment.name).encode("ascii", "ignore").decode().lower()
    label = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    digest = config.short_digest(experiment.name)[:8]
    if not label[:1].isalpha():
        label = f"peer-{label or digest}"
    if len(label) > MAX_NAME:
        label = f"{label[: MAX_NAME - 1 - len(digest)].rstrip('-')}-{digest}"
    return label


def in_pods(experiment: Experiment) -> Experiment:
    """The experiment as pods read it: with the peers' addresses and the places of all files there.

    A peer is patient for MIN_PATIENCE_S at least.
    """
    name, data, topology = name_of(experiment), experiment.data, experiment.topology
    held_out = bool(data.dataset) and data.test_fraction > 0.0
    initial = ("initial-{id}.npz" if "{id}" in experiment.model.initial else "initial.npz") * bool(
        experiment.model.initial
    )
    schedule = "schedule.jsonl" * (topology.schedule == "file")
    replace = msgspec.structs.replace
    return replace(
        experiment,
        data=replace(data, path=f"{SHARDS}/peer-{{id:03d}}.npz", test_path=f"{SHARDS}/test.npz" if held_out else ""),
        model=replace(experiment.model, initial=initial and f"{EXPERIMENT}/{initial}"),
        topology=replace(topology, path=schedule and f"{EXPERIMENT}/{schedule}"),
        run=replace(experiment.run, patience_s=max(experiment.run.patience_s, MIN_PATIENCE_S)),
        metrics=replace(experiment.metrics, tensorboard="", mlflow=""),  # of this host; nobody follows there
        transport=replace(
            experiment.transport,
            keys=KEYS,
            addresses=tuple(f"tcp://{name}-{peer}.{name}:{PORT}" for peer in range(experiment.peers)),
            bind="",  # so on all interfaces of a pod, at PORT
        ),
    )


def files_of(experiment: Experiment) -> dict[str, str | bytes]:
    """The files that an experiment names and all pods need, by their names there: a schedule, first parameters.

    Raises
    ------
    ConfigError
        A file cannot be read, or is too large to come along.
    """
    found: dict[str, str | bytes] = {}
    if experiment.topology.schedule == "file":
        try:
            found["schedule.jsonl"] = _small(Path(experiment.topology.path), "topology.path").decode()
        except UnicodeDecodeError as error:
            raise ConfigError("topology.path", f"{experiment.topology.path}: expected UTF-8, found: {error}") from error
    initial = experiment.model.initial
    if "{id}" in initial:
        for peer in range(experiment.peers):
            found[f"initial-{peer}.npz"] = _small(Path(initial.replace("{id}", str(peer))), "model.initial")
            _fit(found, "the files of all peers")  # before more of them are read
    elif initial:
        found["initial.npz"] = _small(Path(initial), "model.initial")
    return found


def _small(path: Path, key: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_OBJECT_BYTES:
            limit = f"expected a file of at most {MAX_OBJECT_BYTES} bytes, which is what a ConfigMap takes"
            raise ConfigError(key, f"{path}: {limit}; found {size}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(key, f"expected a file at {path}, found: {error.strerror}") from error


def _fit(values: Mapping[str, str | bytes], what: str) -> None:
    """Refuse values that are too large for one object, by the setting that makes the largest of them what it is."""
    sizes = {name: len(value.encode() if isinstance(value, str) else value) for name, value in values.items()}
    total, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name], default="")
    if total > MAX_OBJECT_BYTES:
        causes = {"schedule": "topology.path", "initial": "model.initial"}
        key = next((key for prefix, key in causes.items() if largest.startswith(prefix)), "peers")
        limit = f"expected {what} to fit into {MAX_OBJECT_BYTES} bytes, all that a cluster takes as one object"
        raise ConfigError(key, f"{limit}; found {total}, most of it in {largest}")


def pairs_of(folder: Path, n_agents: int) -> dict[PeerId, tuple[str, str]]:
    """(public, secret) keys of all peers, from a folder that `peer keys` wrote.

    Raises
    ------
    ConfigError
        A key is missing, is none, or does not fit the public list.
    """
    _, public = keys.read(folder, 0, n_agents)
    pairs: dict[PeerId, tuple[str, str]] = {}
    for peer in range(n_agents):
        path = folder / keys.secret_name(peer)
        try:
            secret = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            hint = f"`peer keys DIR --peers {n_agents}` makes them"
            raise ConfigError("--keys", f"expected a key file at {path}, found: {error}; {hint}") from error
        if not keys.Z85_KEY.fullmatch(secret):
            raise ConfigError("--keys", f"{path}: expected a key of 40 characters")
        try:
            fits = public_of(secret) == public[peer]
        except ConfigError:
            fits = False
        if not fits:
            raise ConfigError("--keys", f"{path}: expected the secret of peer {peer}'s key in {keys.PUBLIC_NAME}")
        pairs[peer] = public[peer], secret
    return pairs


def manifests(
    experiment: Experiment, cluster: Cluster, pairs: Mapping[PeerId, tuple[str, str]], key_folder: Path | None = None
) -> str:
    """All objects of a run, as one YAML file of several documents.

    Parameters
    ----------
    experiment : Experiment
        As `settings.read` gives it: its paths are those on this host.
    cluster : Cluster
    pairs : mapping of int to (str, str)
        (public, secret) keys of every peer.
    key_folder : Path or None
        Where they are from; None: they were made for this file.

    Raises
    ------
    ConfigError
        What a cluster would not take, or a file that cannot come along.
    """
    check(experiment, cluster)
    files, pods = files_of(experiment), in_pods(experiment)
    public = keys.public_list({peer: pair[0] for peer, pair in pairs.items()})
    common = {"experiment.toml": settings.to_toml(pods), keys.PUBLIC_NAME: public}
    _fit(common, f"addresses and public keys of {experiment.peers} peers")
    _fit(common | files, f"addresses and public keys of {experiment.peers} peers, and the files they start from,")
    run = Documents(name_of(experiment), experiment, pods, cluster)
    secrets = {run.pod(peer): secret for peer, (_, secret) in sorted(pairs.items())}
    documents = [
        run.introduction(key_folder),
        run.network_policy(),
        run.config_map(common | files),
        run.secret(secrets),
        run.service(),
        run.results(),
        run.stateful_set(),
        run.summary(),
    ]
    return "\n---\n".join(document.strip("\n") for document in documents) + "\n"
