"""Manifests: the official schemas take them, their parts fit each other, and what a cluster would refuse is refused.

No cluster, no network: the validator brings the schemas of many versions of Kubernetes.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from peer import addresses, config, keys, kubernetes, settings
from peer.aside import aside
from peer.errors import ConfigError
from peer.kubernetes import manifests
from peer.manifests import PORT, Cluster
from peer.settings import Experiment
from peer.transport import new_key_pair, public_of

VERSIONS = tuple(dict.fromkeys(map(kubernetes_validate.utils.major_minor, kubernetes_validate.utils.all_versions())))
CHECKED = (VERSIONS[0], VERSIONS[len(VERSIONS) // 2], VERSIONS[-1])

DEFAULT = Path(kubernetes.__file__).with_name("default.toml")

Tree = dict[str, Any]


@dataclass(frozen=True)
class Printed:
    """Documents of a file by their kind; every kind comes once."""

    text: str
    by_kind: Mapping[str, Tree]

    @property
    def experiment(self) -> Experiment:
        return settings.from_tree(tomllib.loads(self.by_kind["ConfigMap"]["data"]["experiment.toml"]))

    @property
    def public(self) -> dict[str, str]:
        return tomllib.loads(self.by_kind["ConfigMap"]["data"]["public.toml"])

    @property
    def peer(self) -> Tree:
        """The pod of a peer."""
        spec: Tree = self.by_kind["StatefulSet"]["spec"]["template"]["spec"]
        return spec

    def pods(self) -> Iterator[tuple[str, Tree]]:
        """Specifications of all pods, with the names of the claims that each gets besides its volumes."""
        for kind in ("StatefulSet", "Job"):
            yield kind, self.by_kind[kind]["spec"]["template"]["spec"]

    def containers(self) -> Iterator[Tree]:
        for _, pod in self.pods():
            yield from pod.get("initContainers", [])
            yield from pod["containers"]


@cache
def pairs(n: int) -> dict[int, tuple[str, str]]:
    return {peer: new_key_pair() for peer in range(n)}


def printed(experiment: Experiment, cluster: Cluster = Cluster()) -> Printed:  # noqa: B008
    text = manifests(experiment, cluster, pairs(experiment.peers))
    documents = [tree for tree in yaml.safe_load_all(text) if tree is not None]
    by_kind = {tree["kind"]: tree for tree in documents}
    assert len(by_kind) == len(documents)
    return Printed(text, by_kind)


def made(**tree: Any) -> Experiment:
    return settings.from_tree({"data": {"dataset": "digits"}, "topology": {"graph": "ring"}} | tree)


def own(folder: Path) -> Tree:
    return {"path": str(folder / "shards of mine" / "peer-{id}.npz"), "test_path": str(folder / "test.npz")}


def schedule_file(folder: Path) -> Path:
    path = folder / "schedule.jsonl"
    path.write_text("".join(json.dumps({"n": n, "edges": [[n, (n + 1) % 4]]}) + "\n" for n in range(4)))
    return path


def initial_file(path: Path, size: int = 3) -> Path:
    np.savez(path, **{"layers.0.weight": np.ones((1, size)), "layers.0.bias": np.zeros(1)})  # type: ignore[arg-type]
    return path


@cache
def cases(folder: Path) -> dict[str, tuple[Experiment, Cluster]]:
    initial = initial_file(folder / "initial.npz", 3000)
    for peer in range(3):
        initial_file(folder / f"initial-{peer}.npz")
    image = "registry.example.org:5000/lab/next-peer:0.1.0@sha256:" + 64 * "a"
    somewhere = Cluster(image, "my-lab", "20Gi", "a.b", "nfs")
    return {
        "default": (settings.read(DEFAULT), Cluster()),
        "three": (made(name="three", peers=3), somewhere),
        "one": (made(peers=1), Cluster()),
        "hundred": (settings.read(DEFAULT, ["peers=100"]), Cluster()),
        "own data": (made(peers=3, data=own(folder)), somewhere),
        "own data, one peer": (made(peers=1, data={"path": str(folder / "all\nof it.npz")}), Cluster()),
        "nothing held out": (made(data={"dataset": "wine", "test_fraction": 0.0}), Cluster()),
        "schedule file": (
            made(peers=4, topology={"schedule": "file", "path": str(schedule_file(folder))}),
            Cluster(),
        ),
        "initial": (made(model={"initial": str(initial)}), Cluster()),
        "initial each": (made(peers=3, model={"initial": str(folder / "initial-{id}.npz")}), Cluster()),
        "odd name": (made(name='Größe: "№ 1" #{x} \\ 💡 & *a', run={"id": "- ?"}), Cluster()),
        "no letters": (made(name="実験"), Cluster()),
        "long name": (made(name="x." * 95), Cluster()),
        "yaml's own word": (made(name="null"), Cluster()),
        "number": (made(name="3.10"), Cluster()),
        "without rounds": (made(run={"mode": "async", "departure_s": 12.5}), Cluster()),
    }


CASES = (
    "default",
    "three",
    "one",
    "hundred",
    "own data",
    "own data, one peer",
    "nothing held out",
    "schedule file",
    "initial",
    "initial each",
    "odd name",
    "no letters",
    "long name",
    "yaml's own word",
    "number",
    "without rounds",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiments")


Case = tuple[Experiment, Cluster, Printed]


@cache
def case_of(folder: Path, name: str) -> Case:
    experiment, cluster = cases(folder)[name]
    return experiment, cluster, printed(experiment, cluster)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, folder: Path) -> Case:
    return case_of(folder, request.param)


# ---- the official schemas ------------------------------------------------------------------


def valid(document: Tree, version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", CHECKED)
def test_the_official_schemas_take_every_document(case: Case, version: str) -> None:
    for document in case[2].by_kind.values():
        valid(document, version)


def test_every_version_that_the_validator_knows_takes_the_default(folder: Path) -> None:
    found = case_of(folder, "default")[2]
    for version in VERSIONS:
        for document in found.by_kind.values():
            valid(document, version)


def _misspell(tree: Tree) -> None:
    tree["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}


def _number_as_text(tree: Tree) -> None:
    tree["spec"]["replicas"] = "8"


def _no_selector(tree: Tree) -> None:
    del tree["spec"]["selector"]


def _mode_as_text(tree: Tree) -> None:
    tree["spec"]["template"]["spec"]["volumes"][1]["secret"]["defaultMode"] = "0440"


@pytest.mark.parametrize("damage", [_misspell, _number_as_text, _no_selector, _mode_as_text])
@pytest.mark.parametrize("version", CHECKED)
def test_the_validator_refuses_a_broken_manifest(damage: Any, version: str) -> None:
    document = copy.deepcopy(printed(made()).by_kind["StatefulSet"])
    valid(document, version)
    damage(document)
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(document, version)


# ---- what schemas do not say ---------------------------------------------------------------

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def test_names_are_names_of_the_dns_and_short_enough(case: Case) -> None:
    experiment, _, found = case
    name = found.by_kind["StatefulSet"]["metadata"]["name"]
    pod = f"{name}-{experiment.peers - 1}"
    generated = [pod, f"{name}-{10 * 'f'}", f"{name}-summary"]  # the second is the label of its revision
    for text in [*generated, *(document["metadata"]["name"] for document in found.by_kind.values())]:
        assert LABEL.fullmatch(text)
        assert len(text) <= 63
    for document in found.by_kind.values():
        for key, value in document["metadata"]["labels"].items():
            assert isinstance(value, str)
            assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value), key


def test_long_names_stay_apart() -> None:
    names = {kubernetes.name_of(made(name="x" * 80 + end)) for end in "ab"}
    assert len(names) == 2
    assert {len(name) for name in names} == {kubernetes.MAX_NAME}


@given(st.text(min_size=1, max_size=100))
def test_any_name_becomes_a_label(name: str) -> None:
    label = kubernetes.name_of(msgspec.structs.replace(made(), name=name))
    assert LABEL.fullmatch(label)
    assert len(label) <= kubernetes.MAX_NAME


def test_all_are_in_the_namespace_that_was_asked_for(case: Case) -> None:
    _, cluster, found = case
    spaces = {document["metadata"].get("namespace", "") for document in found.by_kind.values()}
    assert spaces == {cluster.namespace}


def test_addresses_are_those_that_the_service_gives_to_the_pods(case: Case) -> None:
    experiment, _, found = case
    workload, service = found.by_kind["StatefulSet"], found.by_kind["Service"]
    (port,) = service["spec"]["ports"]
    pods = [f"{workload['metadata']['name']}-{k}" for k in range(workload["spec"]["replicas"])]
    assert workload["spec"]["replicas"] == experiment.peers
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    addresses = [f"tcp://{pod}.{service['metadata']['name']}:{port['port']}" for pod in pods]
    assert list(found.experiment.transport.addresses) == addresses
    (container,) = found.peer["containers"]
    assert [(p["name"], p["containerPort"]) for p in container["ports"]] == [(port["targetPort"], port["port"])]


def test_selectors_find_the_peers_and_nobody_else(case: Case) -> None:
    _, _, found = case
    template = found.by_kind["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    policy = found.by_kind["NetworkPolicy"]["spec"]
    selectors = [
        found.by_kind["Service"]["spec"]["selector"],
        found.by_kind["StatefulSet"]["spec"]["selector"]["matchLabels"],
        found.peer["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        policy["podSelector"]["matchLabels"],
        policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector == template
        other = found.by_kind["Job"]["spec"]["template"]["metadata"]["labels"]
        assert not selector.items() <= other.items()
    assert policy["ingress"][0]["ports"] == [{"port": PORT, "protocol": "TCP"}]


def test_every_mount_has_its_volume_and_every_volume_its_object(case: Case) -> None:
    _, cluster, found = case
    name = found.by_kind["ConfigMap"]["metadata"]["name"]
    claims = found.by_kind["StatefulSet"]["spec"]["volumeClaimTemplates"]
    assert [claim["metadata"]["name"] for claim in claims] == ["shard"]
    for kind, pod in found.pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        known = volumes.keys() | ({"shard"} if kind == "StatefulSet" else set())
        mounts = [m for c in [*pod.get("initContainers", []), *pod["containers"]] for m in c["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == known
        assert volumes["experiment"]["configMap"]["name"] == name
        claimed = volumes["results"]["persistentVolumeClaim"]["claimName"]
        assert claimed == found.by_kind["PersistentVolumeClaim"]["metadata"]["name"]
    for claim, storage_class in (
        (claims[0]["spec"], cluster.storage_class),
        (found.by_kind["PersistentVolumeClaim"]["spec"], cluster.results_class),
    ):
        assert claim.get("storageClassName", "") == storage_class
        assert claim["resources"]["requests"]["storage"] == cluster.storage
    assert claims[0]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert found.by_kind["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_pods_are_as_the_restricted_standard_wants_them(case: Case) -> None:
    _, cluster, found = case
    for _, pod in found.pods():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert {security[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {10001}
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
    for container in found.containers():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["image"] == cluster.image
        assert container["imagePullPolicy"] == "IfNotPresent", "an image that only the node has, tagged latest"
        assert container["resources"].keys() == {"requests", "limits"}


def test_nothing_kills_a_peer_that_waits(case: Case) -> None:
    _, _, found = case
    (container,) = found.peer["containers"]
    assert "livenessProbe" not in container
    assert "startupProbe" not in container
    assert container["readinessProbe"]["exec"]["command"][:3] == ["peer", "health", "/results"]
    assert found.experiment.run.patience_s > 300, "the longest pause before a container is started again"
    assert found.by_kind["StatefulSet"]["spec"]["podManagementPolicy"] == "Parallel"


# ---- keys ----------------------------------------------------------------------------------


def test_each_secret_is_that_of_its_pods_public_key(case: Case) -> None:
    experiment, _, found = case
    secrets = found.by_kind["Secret"]["stringData"]
    name = found.by_kind["StatefulSet"]["metadata"]["name"]
    assert list(secrets) == [f"{name}-{peer}" for peer in range(experiment.peers)]
    for peer in range(experiment.peers):
        assert secrets[f"{name}-{peer}"] == pairs(experiment.peers)[peer][1]
        assert public_of(secrets[f"{name}-{peer}"]) == found.public[str(peer)]


def test_the_key_files_of_a_pod_are_read_by_a_peer(tmp_path: Path) -> None:
    found = printed(made(peers=3))
    (tmp_path / keys.PUBLIC_NAME).write_text(found.by_kind["ConfigMap"]["data"][keys.PUBLIC_NAME])
    (tmp_path / keys.secret_name(2)).write_text(found.by_kind["Secret"]["stringData"]["experiment-2"])
    secret, public = keys.read(tmp_path, 2, 3)
    assert (public[2], secret) == pairs(3)[2]
    assert public == {peer: pair[0] for peer, pair in pairs(3).items()}


def test_no_container_sees_a_key_but_its_own(case: Case) -> None:
    _, _, found = case
    for kind, pod in found.pods():
        secret = {volume["name"] for volume in pod["volumes"] if "secret" in volume or "projected" in volume}
        assert secret == ({"keys"} if kind == "StatefulSet" else set())
    for container in found.containers():
        mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "keys"]
        assert (container["name"] == "peer") == bool(mounts), "not the containers that prepare"
        for mount in mounts:
            assert mount["subPathExpr"] == "$(PEER_ID)"
            assert mount["readOnly"] is True
            assert Path(mount["mountPath"]).parent == Path(found.experiment.transport.keys)
        for variable in container.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {})
            if variable["name"] == "PEER_ID":
                assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
        assert "envFrom" not in container
    (keys_volume,) = [volume for volume in found.peer["volumes"] if volume["name"] == "keys"]
    assert keys_volume["secret"]["defaultMode"] == 0o440, "for the group of the pod, and no others"
    for kind, document in found.by_kind.items():
        if kind != "Secret":
            assert not any(secret in json.dumps(document) for _, secret in pairs(case[0].peers).values())


def test_keys_of_a_folder(tmp_path: Path) -> None:
    keys.write(tmp_path, pairs(3))
    assert kubernetes.pairs_of(tmp_path, 3) == pairs(3)
    text = manifests(made(peers=3), Cluster(), kubernetes.pairs_of(tmp_path, 3), tmp_path)
    assert f"# They are those in {tmp_path}" in text
    assert "WHOEVER HAS THIS FILE" in text
    assert text == manifests(made(peers=3), Cluster(), kubernetes.pairs_of(tmp_path, 3), tmp_path)


def test_a_key_that_does_not_fit_the_public_list_is_refused(tmp_path: Path) -> None:
    keys.write(tmp_path, pairs(3))
    path = tmp_path / keys.secret_name(1)
    for damage, words in (
        (pairs(3)[2][1], "secret of peer 1's key"),
        ("short", "40 characters"),
        ("#" * 40, "secret of peer 1's key"),
        (None, "`peer keys DIR --peers 3`"),
    ):
        path.unlink()
        if damage is not None:
            path.write_text(damage)
        with pytest.raises(ConfigError) as refusal:
            kubernetes.pairs_of(tmp_path, 3)
        assert words in str(refusal.value)
        assert str(path) in str(refusal.value)
        assert damage is None or damage not in str(refusal.value).replace(str(path), "")


# ---- what the pods read --------------------------------------------------------------------


def test_the_experiment_reads_back_and_is_the_same_but_for_its_places(case: Case, tmp_path: Path) -> None:
    experiment, _, found = case
    path = tmp_path / "experiment.toml"
    path.write_text(found.by_kind["ConfigMap"]["data"]["experiment.toml"])
    assert settings.read(path) == found.experiment, "its paths are absolute"
    may_differ = settings.LOCAL | {"run.patience_s"}
    before, after = settings.flat(experiment), settings.flat(found.experiment)
    assert {key for key in before if before[key] != after[key]} <= may_differ
    assert after["name"] == before["name"]
    assert after["run.patience_s"] >= before["run.patience_s"]


def test_without_rounds_nobody_is_said_to_wait_for_a_lost_pod(folder: Path) -> None:
    _, _, found = case_of(folder, "without rounds")
    assert "The others go on meanwhile" in found.text
    assert "the others wait for it" not in found.text
    assert found.peer["containers"][0]["readinessProbe"]["exec"]["command"][-1] == "--within=13", (
        "after it, a peer counts as gone"
    )
    _, _, rounds = case_of(folder, "default")
    assert rounds.peer["containers"][0]["args"] == found.peer["containers"][0]["args"]


def test_patience_is_never_shortened() -> None:
    assert kubernetes.in_pods(made(run={"patience_s": 5000.0})).run.patience_s == 5000.0
    assert kubernetes.in_pods(made(run={"patience_s": 1.0})).run.patience_s == kubernetes.MIN_PATIENCE_S


def test_pods_listen_at_their_own_addresses_wherever_peers_did_before() -> None:
    before = made(peers=2, transport={"bind": "tcp://10.0.0.7:6000", "addresses": ["tcp://a:6000", "tcp://b:6000"]})
    found = kubernetes.in_pods(before)
    assert [addresses.bind_of(found, peer) for peer in range(2)] == ["tcp://*:5555"] * 2


def test_every_file_that_the_experiment_names_is_mounted(case: Case) -> None:
    experiment, _, found = case
    (container,) = found.peer["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    inside = found.experiment
    assert mounts[str(Path(inside.data.path).parent)] == {"name": "shard", "mountPath": "/shards", "readOnly": True}
    assert "{id" in inside.data.path
    entries = found.by_kind["ConfigMap"]["data"] | found.by_kind["ConfigMap"].get("binaryData", {})
    for key, path in (("model.initial", inside.model.initial), ("topology.path", inside.topology.path)):
        assert bool(path) == bool(settings.flat(experiment)[key])
        for peer in range(experiment.peers if path else 0):
            named = Path(path.replace("{id}", str(peer)))
            assert mounts[str(named.parent)]["name"] == "experiment"
            assert named.name in entries
    for name in (keys.PUBLIC_NAME, "secret"):
        assert f"{inside.transport.keys}/{name}" in mounts
    assert mounts[f"/keys/{keys.PUBLIC_NAME}"]["subPath"] in entries
    assert container["args"][1] == f"{mounts['/experiment']['mountPath']}/experiment.toml"
    assert all(mount.get("readOnly") or mount["name"] in ("results", "tmp") for mount in mounts.values())


def test_files_come_along_unchanged(folder: Path) -> None:
    schedule = cases(folder)["schedule file"][0]
    found = printed(schedule).by_kind["ConfigMap"]
    assert found["data"]["schedule.jsonl"] == Path(schedule.topology.path).read_text()
    initial = cases(folder)["initial"][0]
    found = printed(initial).by_kind["ConfigMap"]
    came = base64.b64decode(found["binaryData"]["initial.npz"], validate=True)
    assert came == Path(initial.model.initial).read_bytes()
    each = cases(folder)["initial each"][0]
    found = printed(each).by_kind["ConfigMap"]
    assert list(found["binaryData"]) == [f"initial-{peer}.npz" for peer in range(3)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "", "\t\n", "\u2028\n", "\x85"])
def test_text_comes_along_unchanged_whatever_is_in_it(end: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "schedule.jsonl"
    text = schedule_file(folder).read_text().rstrip("\n") + end
    path.write_bytes(text.encode())
    found = printed(made(peers=4, topology={"schedule": "file", "path": str(path)}))
    assert found.by_kind["ConfigMap"]["data"]["schedule.jsonl"] == text


# ---- data ----------------------------------------------------------------------------------


def test_a_named_data_set_is_cut_by_each_peer_and_by_the_summary() -> None:
    found = printed(made(peers=3))
    (cut,) = found.peer["initContainers"]
    assert cut["args"] == ["shard", "/experiment/experiment.toml"]
    assert [variable["name"] for variable in cut["env"]] == ["PEER_ID"], "its own part only"
    (all_of_it,) = found.by_kind["Job"]["spec"]["template"]["spec"]["initContainers"]
    assert all_of_it["args"] == cut["args"]
    assert "env" not in all_of_it
    assert found.experiment.data.dataset == "digits"
    assert found.experiment.data.test_path == "/shards/test.npz"
    assert found.by_kind["StatefulSet"]["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Delete"


def test_own_samples_are_waited_for_and_no_pod_sees_those_of_others(folder: Path) -> None:
    experiment = made(peers=3, data=own(folder))
    found = printed(experiment)
    assert "initContainers" not in found.by_kind["Job"]["spec"]["template"]["spec"], "it sees nobody's"
    assert found.experiment.data.test_path == "", "which no peer needs"
    (wait,) = found.peer["initContainers"]
    assert wait["command"] == ["sh", "-c"]
    assert found.by_kind["StatefulSet"]["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    assert f"exec -i experiment-0 -c {wait['name']} -- sh -c" in found.text
    assert f"/shards/peer-000.npz <'{folder}/shards of mine/peer-0.npz'" in found.text
    assert f"experiment-2, which gets '{folder}/shards of mine/peer-2.npz' as /shards/peer-002.npz" in found.text


def test_what_waits_for_a_shard_sees_it_come(tmp_path: Path) -> None:
    """The script of the container that waits, and the one that hands a file over, with /shards somewhere else."""
    found = printed(made(peers=12, data={"path": "peer-{id}.npz"}))
    (wait,) = found.peer["initContainers"]
    script = wait["args"][0].replace("/shards", str(tmp_path))
    hand_over = re.search(r"-c shard -- sh -c '(.*)' /shards/peer-000.npz <peer-0.npz", found.text)
    assert hand_over is not None
    environment = {"PEER_ID": "experiment-11", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(["sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == f"waiting for {tmp_path}/peer-011.npz\n"
        waiting.terminate()
        assert waiting.wait(10) == 143
    target = tmp_path / "peer-011.npz"
    command = hand_over[1].replace("/shards", str(tmp_path))
    subprocess.run(["sh", "-c", command, str(target)], input=b"samples", check=True)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
    assert target.read_bytes() == b"samples"
    subprocess.run(["sh", "-c", script], env=environment, check=True, timeout=10)


# ---- refusals ------------------------------------------------------------------------------


def refused(experiment: Experiment, cluster: Cluster = Cluster()) -> ConfigError:  # noqa: B008
    with pytest.raises(ConfigError) as refusal:
        manifests(experiment, cluster, {})
    assert "\n" not in str(refusal.value)
    return refusal.value


def test_peers_without_keys_are_refused() -> None:
    error = refused(made(transport={"security": "none"}))
    assert error.key == "transport.security"
    assert "found none" in str(error)


def test_held_out_samples_in_files_of_their_own_are_refused() -> None:
    error = refused(made(data={"dataset": "wine", "validation_path": "v-{id}.npz"}))
    assert error.key == "data.validation_path"
    assert "use data.validation_fraction" in error.problem


BAD_OPTIONS = {
    "image": ("", "a b", "UPPER/Case:", "next-peer\n", "x:y:z", "-x", "../x", "a" * 600, "x@sha256:12", "x\nkind: Pod"),
    "namespace": ("Lab", "a_b", "-a", "a-", "a.b", "x" * 64, "a\n", "ä"),
    "storage": ("", "0", "1 Gi", "lots", "-1Gi", "1GiB", "1e3Gi\n"),
    "storage_class": ("A", "a b", "a..b", "x" * 254, ".a"),
    "results_class": ("NFS", "nfs\n"),
}


@pytest.mark.parametrize(("option", "value"), [(o, v) for o, values in BAD_OPTIONS.items() for v in values])
def test_options_that_a_cluster_would_not_take_are_refused(option: str, value: str) -> None:
    error = refused(made(), Cluster(**{option: value}))
    assert error.key == "--" + option.replace("_", "-")


@pytest.mark.parametrize(
    "image",
    [
        "next-peer",
        "next-peer:latest",
        "localhost:5000/next-peer",
        "ghcr.io/a/b__c/next-peer:v1.2_3",
        "a@sha256:" + 64 * "0",
    ],
)
def test_images_that_registries_take(image: str) -> None:
    kubernetes.check(made(), Cluster(image=image))


def test_more_peers_than_one_object_holds_are_refused() -> None:
    n = 20_000
    same = dict.fromkeys(range(n), ("p" * 40, "s" * 40))
    with pytest.raises(ConfigError, match="addresses and public keys of 20000 peers") as refusal:
        manifests(made(peers=n), Cluster(), same)
    assert refusal.value.key == "peers"
    assert str(kubernetes.MAX_OBJECT_BYTES) in str(refusal.value)


def test_as_many_peers_as_the_reason_of_the_limit_says_fit() -> None:
    for name, n in (("wdbc", 11_000), ("x" * 100, 5_000)):
        same = dict.fromkeys(range(n), ("p" * 40, "s" * 40))
        assert manifests(made(name=name, peers=n), Cluster(), same)


def test_files_that_are_too_large_or_missing_are_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.npz"
    large.write_bytes(bytes(kubernetes.MAX_OBJECT_BYTES + 1))
    almost = tmp_path / "almost.npz"
    almost.write_bytes(bytes(kubernetes.MAX_OBJECT_BYTES - 10))
    each = tmp_path / "each-{id}.npz"
    for peer in range(3):
        (tmp_path / f"each-{peer}.npz").write_bytes(bytes(kubernetes.MAX_OBJECT_BYTES // 2))
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe")
    for tree, key in (
        ({"model": {"initial": str(large)}}, "model.initial"),
        ({"model": {"initial": str(almost)}}, "model.initial"),
        ({"model": {"initial": str(each)}}, "model.initial"),
        ({"model": {"initial": str(tmp_path / "none.npz")}}, "model.initial"),
        ({"topology": {"schedule": "file", "path": str(large)}}, "topology.path"),
        ({"topology": {"schedule": "file", "path": str(almost)}}, "topology.path"),
        ({"topology": {"schedule": "file", "path": str(binary)}}, "topology.path"),
        ({"topology": {"schedule": "file", "path": str(tmp_path)}}, "topology.path"),
    ):
        assert refused(made(peers=3, **tree)).key == key


# ---- the command ---------------------------------------------------------------------------


def peer(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "peer", *map(str, arguments)], capture_output=True, check=False)


def test_the_command_prints_what_was_asked_for_and_writes_nothing(tmp_path: Path) -> None:
    keys.write(tmp_path / "keys", pairs(3))
    there = sorted(tmp_path.rglob("*"))
    options = ["--image", "lab/next-peer:1", "--namespace", "lab", "--storage", "2Gi", "--keys", str(tmp_path / "keys")]
    classes = ["--storage-class", "fast", "--results-class", "nfs"]
    done = peer("kubernetes", DEFAULT, *options, *classes, "--set", "peers=3", "--set", "name=Größe")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    experiment = settings.read(DEFAULT, ["peers=3", "name=Größe"])
    cluster = Cluster("lab/next-peer:1", "lab", "2Gi", "fast", "nfs")
    assert done.stdout.decode() == manifests(experiment, cluster, pairs(3), tmp_path / "keys")
    assert sorted(tmp_path.rglob("*")) == there


def test_the_command_makes_keys_where_none_are_given() -> None:
    both = [peer("kubernetes", DEFAULT, "--set", "peers=2") for _ in range(2)]
    documents = [tree for done in both for tree in yaml.safe_load_all(done.stdout) if tree is not None]
    secrets = [tree["stringData"] for tree in documents if tree["kind"] == "Secret"]
    assert len({secret for one in secrets for secret in one.values()}) == 4
    assert b"They were made for it" in both[0].stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.toml"], "none.toml"),
        ([DEFAULT, "--set", "transport.security=none"], "transport.security"),
        ([DEFAULT, "--image", "No Image"], "--image"),
        ([DEFAULT, "--keys", "nowhere"], "nowhere"),
        ([DEFAULT, "--set", "peers=430", "--set", "topology.graph=ring"], "expected at most one peer a sample"),
        ([DEFAULT, "--set", "topology.probability=0.0"], "topology"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str | Path], words: str) -> None:
    done = peer("kubernetes", *arguments)
    assert done.returncode == 2
    assert done.stdout == b""
    assert len(done.stderr.decode().splitlines()) == 1
    assert words in done.stderr.decode()


def test_a_schedule_file_means_the_same_in_a_pod(folder: Path, tmp_path: Path) -> None:
    experiment = cases(folder)["schedule file"][0]
    data = printed(experiment).by_kind["ConfigMap"]["data"]
    path = tmp_path / "schedule.jsonl"
    path.write_text(data["schedule.jsonl"])
    topology = msgspec.structs.replace(experiment.topology, path=str(path))
    there = msgspec.structs.replace(experiment, topology=topology)
    assert aside(config.ground, there).digest == aside(config.ground, experiment).digest
