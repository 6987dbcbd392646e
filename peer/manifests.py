"""The objects of a run on Kubernetes, written as YAML.

What is printed is meant to be read, so it is text with comments, not the dump of a tree. Every value that
comes from outside is quoted: JSON's strings are YAML's.
"""

from __future__ import annotations

import base64
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from peer import __version__, keys, shards
from peer.settings import Experiment
from topology import PeerId

PORT: Final = 5555
"""Where every peer listens; each has an address of its own, so one number serves all."""

USER: Final = 10001
"""User and group of the image."""

EXPERIMENT, KEYS, SHARDS, RESULTS = "/experiment", "/keys", "/shards", "/results"
"""Folders in a pod."""

PUBLIC, SECRET = f"{KEYS}/{keys.PUBLIC_NAME}", f"{KEYS}/{keys.OWN_NAME}"
"""Key files in a pod. A folder that one peer alone sees has its secret key under this name."""

PROBE_S: Final = 15
"""Between two looks at a peer's health: each starts an interpreter, a fraction of a second of one core."""

IN_ROUNDS: Final = (
    """A pod that is lost comes back under its name, with its key and its shard, and goes on from its last
# checkpoint; the others wait for it, and the run ends with the same numbers as if nothing had happened.""",
    "of this experiment; other numbers of peers are other experiments",
    "writes a checkpoint",
    """One that waits in vain ends by itself
          # after run.patience_s, with exit code 3, and is started again.""",
)
WITHOUT_ROUNDS: Final = (
    """A pod that is lost comes back under its name, with its key and its shard, and returns from its last
# checkpoint. The others go on meanwhile; after run.departure_s they count it as gone, until it is back.""",
    "with fewer, the last peers leave, and return when there are as many again; more have no keys here",
    "leaves, with a checkpoint",
    """One that waits in vain, as all
          # do before the first epoch, ends by itself after run.patience_s, with exit code 3, and is started again.""",
)
"""What the manifests say of lost pods, of their number, of their end and of waiting."""

LINE: Final = 100
"""Characters of base64 on a line."""


@final
@dataclass(frozen=True)
class Cluster:
    """What an experiment does not say about the cluster that it runs in.

    Parameters
    ----------
    image : str
        Of this program.
    namespace : str
        Empty: the one that is current when the manifests are applied.
    storage : str
        Size of each claim, "1Gi".
    storage_class, results_class : str
        Of the claims for the shards, and of the one for the results; empty: the cluster's default.
    """

    image: str = "next-peer"
    namespace: str = ""
    storage: str = "1Gi"
    storage_class: str = ""
    results_class: str = ""


# ---- YAML ----------------------------------------------------------------------------------


def quoted(text: str) -> str:
    r"""A YAML string on one line; what YAML does not print, or would take for the end of a line, as \uXXXX."""
    return re.sub(
        "[\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]",
        lambda found: f"\\u{ord(found[0]):04x}",
        json.dumps(text, ensure_ascii=False),
    )


def block(text: str, indent: int) -> str:
    """A YAML string of several lines as a reader likes it, or a quoted one where YAML would not give back the same."""
    lines = text.split("\n")
    plain = all(line.isprintable() for line in lines) and not text.startswith((" ", "\n"))
    if not plain or len(lines) < 2 or lines[-1] or not lines[-2]:
        return quoted(text)
    return "|\n" + "\n".join(" " * indent + line if line else "" for line in lines[:-1])


def encoded(value: bytes, indent: int) -> str:
    """A YAML string of base64: one line to a parser, several to a reader."""
    text = base64.b64encode(value).decode()
    pieces = [text[k : k + LINE] for k in range(0, len(text), LINE)]
    return '"' + ("\\\n" + " " * indent).join(pieces) + '"'


def _said(path: object) -> str:
    """A path as a word of a shell, in a comment: on one line whatever its name is."""
    text = str(path)
    return shlex.quote(text) if text.isprintable() else json.dumps(text)


# ---- the documents -------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Documents:
    """What the documents of one run have in common.

    Parameters
    ----------
    name : str
        Of its objects.
    experiment, pods : Experiment
        As on this host, and as pods read it.
    cluster : Cluster
    """

    name: str
    experiment: Experiment
    pods: Experiment
    cluster: Cluster

    def pod(self, peer: PeerId) -> str:
        """Name of a peer's pod, as its StatefulSet gives it."""
        return f"{self.name}-{peer}"

    def labels(self, indent: int, component: str = "") -> str:
        """What objects are found by; with a component, the pods of one kind."""
        lines = ["app.kubernetes.io/name: next-peer", f"app.kubernetes.io/instance: {quoted(self.name)}"]
        if component:
            lines.append(f"app.kubernetes.io/component: {component}")
        return "".join("\n" + " " * indent + line for line in lines)

    def metadata(self, name: str) -> str:
        """Head of an object."""
        space = f"\n  namespace: {quoted(self.cluster.namespace)}" if self.cluster.namespace else ""
        return f"metadata:\n  name: {quoted(name)}{space}\n  labels:{self.labels(4)}"

    def claim(self, mode: str, storage_class: str, indent: int) -> str:
        """Specification of a claim."""
        lines = [f"accessModes: [{mode}]", f"resources: {{requests: {{storage: {quoted(self.cluster.storage)}}}}}"]
        if storage_class:
            lines.insert(1, f"storageClassName: {quoted(storage_class)}")
        return ("\n" + " " * indent).join(lines)

    @property
    def image(self) -> str:
        """The image, and when to fetch it: a tag that is at hand is taken, `latest` too."""
        return f"image: {quoted(self.cluster.image)}\n          imagePullPolicy: IfNotPresent"

    @property
    def pod_security(self) -> str:
        """What the namespace standard "restricted" asks of a pod."""
        return f"""\
securityContext:
        runAsNonRoot: true
        runAsUser: {USER}
        runAsGroup: {USER}
        fsGroup: {USER} # claims and keys belong to root until this group may read them
        fsGroupChangePolicy: OnRootMismatch # else each start walks through the files of all peers
        seccompProfile: {{type: RuntimeDefault}}"""

    @property
    def container_security(self) -> str:
        """What it asks of a container; beyond it, nothing is written but to the volumes."""
        return """\
securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}"""

    def introduction(self, key_folder: Path | None) -> str:
        """What to do with the file, and what to know of it."""
        experiment, name = self.experiment, self.name
        space = f" --namespace {self.cluster.namespace}" if self.cluster.namespace else ""
        selector = f"--selector app.kubernetes.io/instance={name}"
        end = f"""\
#     kubectl{space} wait --for=condition=complete --timeout=1h job/{name}-summary
#     kubectl{space} cp {self.pod(0)}:{RESULTS} runs/{name}     # the run directory, with summary and report"""
        origin = (
            f"# They are those in {_said(key_folder)}."
            if key_folder
            else """\
# They were made for it: made again it has others, and the cluster refuses those while these are there."""
        )
        return f"""\
# The experiment {quoted(experiment.name)} on Kubernetes: {experiment.peers} peers, a pod each.
# Printed by `peer kubernetes`, next-peer {__version__}. Kept as run.yaml:
#
#     kubectl{space} apply --server-side -f run.yaml     # not the plain apply: it would copy the keys to an annotation
#     kubectl{space} get pods {selector} --watch
{end}
#     kubectl{space} delete -f run.yaml     # ends the peers, and deletes the results
#
# WHOEVER HAS THIS FILE HAS THE SECRET KEYS OF ALL PEERS: keep it as you keep those.
{origin}"""

    def network_policy(self) -> str:
        """Who may reach a peer."""
        return f"""\
# Only peers of this run reach a peer, and only at its port. Strangers without a key get no message through in any
# case; this keeps them from knocking. Clusters without a network plugin that enforces policies ignore it.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
{self.metadata(self.name)}
spec:
  podSelector:
    matchLabels:{self.labels(6, "peer")}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector:
            matchLabels:{self.labels(14, "peer")}
      ports:
        - {{port: {PORT}, protocol: TCP}}"""

    def config_map(self, files: Mapping[str, str | bytes]) -> str:
        """What everybody may read."""
        raised = self.pods.run.patience_s > self.experiment.run.patience_s
        patience = f"""
# run.patience_s is {self.pods.run.patience_s:g}, not {self.experiment.run.patience_s:g}: \
a container that ended comes back after up to 300 s, and must find its
# neighbors still waiting."""
        texts = "\n".join(
            f"  {quoted(name)}: {block(value, 4)}" for name, value in files.items() if isinstance(value, str)
        )
        binaries = [(name, value) for name, value in files.items() if isinstance(value, bytes)]
        entries = "".join(f"\n  {quoted(name)}: {encoded(value, 4)}" for name, value in binaries)
        binary = f"\nbinaryData:{entries}" * bool(binaries)
        return f"""\
# What all peers read: the whole experiment, defaults filled in, and the public keys. It cannot change under a
# running run; another experiment takes another name.{patience * raised}
apiVersion: v1
kind: ConfigMap
{self.metadata(self.name)}
immutable: true
data:
{texts}{binary}"""

    def secret(self, secrets: Mapping[str, str]) -> str:
        """What each may read one line of."""
        lines = "\n".join(f"  {quoted(name)}: {quoted(secret)}" for name, secret in secrets.items())
        return f"""\
# The secret key of each peer, under the name of its pod. A container sees its own entry and no other (subPathExpr
# below); people who may read Secrets of this namespace, or the memory of a node, see all.
apiVersion: v1
kind: Secret
{self.metadata(self.name)}
type: Opaque
immutable: true
stringData:
{lines}"""

    def service(self) -> str:
        """What gives each pod its name."""
        return f"""\
# No load balancing, only names: pod {self.pod(0)} is {self.pod(0)}.{self.name}, wherever it runs, and so on.
apiVersion: v1
kind: Service
{self.metadata(self.name)}
spec:
  clusterIP: None
  publishNotReadyAddresses: true # peers must find each other to become ready
  selector:{self.labels(4, "peer")}
  ports:
    - {{name: peer, port: {PORT}, targetPort: peer, protocol: TCP}}"""

    def results(self) -> str:
        """Where all write."""
        return f"""\
# The run directory. All peers write to it, each to a folder of its own, from whatever node they are on, so it has to
# be a file system that nodes share (NFS, CephFS, EFS, Azure Files, Filestore, ...). Checkpoints are in it: what a
# peer needs to go on, on any node. Where there is a single node, ReadWriteOnce is enough:
#     sed s/ReadWriteMany/ReadWriteOnce/ run.yaml | kubectl apply --server-side -f -
apiVersion: v1
kind: PersistentVolumeClaim
{self.metadata(f"{self.name}-results")}
spec:
  {self.claim("ReadWriteMany", self.cluster.results_class, 2)}"""

    def stateful_set(self) -> str:
        """The peers."""
        named, rounds = bool(self.experiment.data.dataset), self.experiment.run.mode == "rounds"
        within = math.ceil(self.experiment.run.patience_s if rounds else self.experiment.run.departure_s)
        lost, number, end, alive = IN_ROUNDS if rounds else WITHOUT_ROUNDS
        retention = (
            "whenDeleted: Delete # they can be cut again"
            if named
            else "whenDeleted: Retain # they may be all there is of a shard"
        )
        return f"""\
# The peers. {lost}
apiVersion: apps/v1
kind: StatefulSet
{self.metadata(self.name)}
spec:
  serviceName: {quoted(self.name)}
  replicas: {self.experiment.peers} # {number}
  podManagementPolicy: Parallel # peers wait for each other: one at a time, the first would wait for ever
  selector:
    matchLabels:{self.labels(6, "peer")}
  volumeClaimTemplates:
    - metadata:
        name: shard # a claim for each peer, shard-{self.pod(0)} and so on, which follows it from node to node
      spec:
        {self.claim("ReadWriteOnce", self.cluster.storage_class, 8)}
  persistentVolumeClaimRetentionPolicy:
    {retention}
    whenScaled: Retain
  template:
    metadata:
      labels:{self.labels(8, "peer")}
    spec:
      automountServiceAccountToken: false # a peer never talks to the API server
      enableServiceLinks: false # nor does it need a variable for every service of the namespace
      terminationGracePeriodSeconds: 60 # at SIGTERM a peer {end}, over the network perhaps
      {self.pod_security}
      topologySpreadConstraints: # peers share out the nodes, as far as they can
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:{self.labels(14, "peer")}
      initContainers:
{self._cut() if named else self._await_shard()}
      containers:
        - name: peer
          {self.image}
          args:
            - run
            - {EXPERIMENT}/experiment.toml
            - --out={RESULTS}
            - --resume # from the last checkpoint; from the beginning where there is none
            - --stay # after the end too: what ends is started again
          env:
            - name: PEER_ID # {self.pod(0)} is peer 0
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
          ports:
            - {{name: peer, containerPort: {PORT}, protocol: TCP}}
          # Ready is a peer that is done, or made a {"round" if rounds else "waking"} within the last {within} s. \
It is for you to see; no traffic
          # depends on it. There is no livenessProbe, nor a startupProbe, which kills as well: all that a peer waits
          # for is other peers, and killing one that waits helps none of them. {alive}
          readinessProbe:
            exec: {{command: [peer, health, {RESULTS}, --within={within}]}}
            periodSeconds: {PROBE_S}
            timeoutSeconds: 10 # it starts an interpreter
          # One process with one thread for the mathematics. Its memory grows with the shard, and with the parameters
          # times (run.checkpoint_every + neighbors): raise the limit where these are large.
          resources:
            requests: {{cpu: 100m, memory: 128Mi}}
            limits: {{cpu: "1", memory: 1Gi}}
          {self.container_security}
          volumeMounts:
            - {{name: experiment, mountPath: {EXPERIMENT}, readOnly: true}}
            - {{name: experiment, mountPath: {PUBLIC}, subPath: {keys.PUBLIC_NAME}, readOnly: true}}
            - {{name: keys, mountPath: {SECRET}, subPathExpr: $(PEER_ID), readOnly: true}} # its own, no other
            - {{name: shard, mountPath: {SHARDS}, readOnly: true}}
            - {{name: results, mountPath: {RESULTS}}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - name: experiment
          configMap: {{name: {quoted(self.name)}}}
        - name: keys
          secret: {{secretName: {quoted(self.name)}, defaultMode: 0440}} # root's, readable by the group above
        - name: results
          persistentVolumeClaim: {{claimName: {quoted(f"{self.name}-results")}}}
        - name: tmp
          emptyDir: {{}}"""

    def _cut(self) -> str:
        """The container that cuts a peer's shard from a named data set."""
        return f"""\
        - name: shard # cuts this peer's part from the data set, which the image has; a part that is there stays
          {self.image}
          args: [shard, {EXPERIMENT}/experiment.toml]
          env:
            - name: PEER_ID
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
          resources:
            requests: {{cpu: 100m, memory: 128Mi}}
            limits: {{cpu: "1", memory: 1Gi}}
          {self.container_security}
          volumeMounts:
            - {{name: experiment, mountPath: {EXPERIMENT}, readOnly: true}}
            - {{name: shard, mountPath: {SHARDS}}}
            - {{name: tmp, mountPath: /tmp}}"""

    def _await_shard(self) -> str:
        """The container that waits for a peer's shard, and through which it is handed over."""
        pattern, last = self.experiment.data.path, self.experiment.peers - 1
        inside = shards.path_of(self.pods.data.path, 0)
        take = f"""sh -c 'cat >{SHARDS}/part && mv {SHARDS}/part "$0"'"""
        space = f" --namespace {self.cluster.namespace}" if self.cluster.namespace else ""
        others = (
            f"\n        # and so on to {self.pod(last)}, which gets {_said(shards.path_of(pattern, last))} "
            f"as {shards.path_of(self.pods.data.path, last)}."
            if last
            else ""
        )
        return f"""\
        # Waits until the peer's samples are on its claim, shard-{self.pod(0)} and so on. Hand each pod its own file:
        #     kubectl{space} exec -i {self.pod(0)} -c shard -- {take} {inside} \
<{_said(shards.path_of(pattern, 0))}{others}
        - name: shard
          {self.image}
          command: [sh, -c]
          args:
            - |
              trap 'exit 143' TERM
              file=$(printf '{SHARDS}/peer-%03d.npz' "${{PEER_ID##*-}}")
              until [ -e "$file" ]; do
                echo "waiting for $file"
                sleep 5 & wait
              done
          env:
            - name: PEER_ID
              valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
          resources:
            requests: {{cpu: 10m, memory: 16Mi}}
            limits: {{cpu: 100m, memory: 128Mi}}
          {self.container_security}
          volumeMounts:
            - {{name: shard, mountPath: {SHARDS}}}"""

    def summary(self) -> str:
        """The job that sums the run up."""
        cuts = f"""\
      initContainers:
        - name: shards # of all peers: it cuts them for itself
          {self.image}
          args: [shard, {EXPERIMENT}/experiment.toml]
          resources:
            requests: {{cpu: 100m, memory: 128Mi}}
            limits: {{cpu: "1", memory: 1Gi}}
          {self.container_security}
          volumeMounts:
            - {{name: experiment, mountPath: {EXPERIMENT}, readOnly: true}}
            - {{name: shards, mountPath: {SHARDS}}}
            - {{name: tmp, mountPath: /tmp}}
"""
        named = bool(self.experiment.data.dataset)
        sees = "It has no key." if named else "It has no key, and no samples: what needs them is null there."
        return f"""\
# Waits until all peers have ended well, and writes {RESULTS}/summary.json and report.html. {sees}
apiVersion: batch/v1
kind: Job
{self.metadata(f"{self.name}-summary")}
spec:
  backoffLimit: 10
  template:
    metadata:
      labels:{self.labels(8, "summary")}
    spec:
      restartPolicy: OnFailure
      automountServiceAccountToken: false
      enableServiceLinks: false
      {self.pod_security}
{cuts if named else ""}      containers:
        - name: summary
          {self.image}
          args: [report, {RESULTS}, --wait]
          env:
            - {{name: HOME, value: /tmp}} # where libraries that draw keep their caches
          resources:
            requests: {{cpu: 100m, memory: 256Mi}}
            limits: {{cpu: "1", memory: 2Gi}}
          {self.container_security}
          volumeMounts:
            - {{name: experiment, mountPath: {EXPERIMENT}, readOnly: true}}
            - {{name: results, mountPath: {RESULTS}}}
            - {{name: shards, mountPath: {SHARDS}, readOnly: true}}
            - {{name: tmp, mountPath: /tmp}}
      volumes:
        - name: experiment
          configMap: {{name: {quoted(self.name)}}}
        - name: results
          persistentVolumeClaim: {{claimName: {quoted(f"{self.name}-results")}}}
        - name: shards
          emptyDir: {{}}
        - name: tmp
          emptyDir: {{}}"""
