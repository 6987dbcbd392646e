"""Whether this host can run peers: what it has, what is missing, and what to do about it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, final

from peer import settings
from peer.config import SOFTWARE
from peer.door import LINK_DESCRIPTORS, OWN_DESCRIPTORS
from peer.errors import ConfigError
from peer.launcher import check_room
from peer.prepare import rehearsed
from peer.settings import Experiment
from peer.transport import is_loopback, new_key_pair

EXTRAS: Final = {
    "scikit-learn": ("datasets", "named data sets"),
    "matplotlib": ("report", "`peer report`"),
    "aiohttp": ("watch", "`peer watch`"),
    "onnx": ("export", "`peer export --format onnx`"),
    "safetensors": ("export", "`peer export --format safetensors`"),
    "tensorboardX": ("tensorboard", "`[metrics] tensorboard`"),
    "mlflow-skinny": ("mlflow", "`[metrics] mlflow`"),
    "torch": ("torch", "networks of your own in PyTorch"),
    "jax": ("jax", "networks of your own in JAX"),
}
"""Packages that are optional: the extra that brings them, and what for."""

INSTEAD: Final = {"mlflow-skinny": "mlflow"}
"""Packages that bring another one along."""

THREADS: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""How many threads linear algebra takes in each process; `peer` sets them to 1 where they are not set."""

PEER_BYTES: Final = 1 << 26
"""Of memory that a peer of its own takes, about: 50 MB were measured, most of it shared where launch starts it."""

LEAST_SPACE: Final = 1 << 28
"""Of address space: below, `peer` refuses to start."""

LEAST_DISK: Final = 1 << 27
"""Free on a disk that runs are written to."""

NEIGHBORS: Final = 16
"""Of a peer, for which descriptors have to be there."""

ENGINE_S: Final = 10.0
"""For a container engine to answer."""


@final
@dataclass(frozen=True)
class Finding:
    """Something that was looked at.

    Parameters
    ----------
    name, found : str
    advice : str
        What to do; empty where all is well.
    needed : bool
        Whether peers cannot run as they should before that is done.
    """

    name: str
    found: str
    advice: str = ""
    needed: bool = False

    @property
    def mark(self) -> str:
        """In a word."""
        return "ok" if not self.advice else "BAD" if self.needed else "note"


def examine(experiment: Experiment | None) -> list[Finding]:
    """Look at everything; with an experiment, at what it needs too."""
    looks: Sequence[Callable[[], Iterator[Finding]]] = (
        *(_software, _algebra, _processors, _memory, _limits, _disk, _ports, _security, _engine, _extras),
    )
    found = [finding for look in looks for finding in look()]
    return found if experiment is None else [*found, *_addresses(experiment), *_fleet(experiment)]


def _version(package: str) -> str:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return ""


def _software() -> Iterator[Finding]:
    old = "" if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed"
    host = os.uname()
    yield Finding("python", f"{platform.python_version()}, {host.sysname} {host.release} {host.machine}", old, True)
    for package in SOFTWARE:
        version = _version(package)
        advice = "" if version else f"pip install {package}"
        yield Finding(package, version or "missing", advice, True)


def _algebra() -> Iterator[Finding]:
    import numpy as np

    built: dict[str, dict[str, dict[str, str]]] = np.show_config(mode="dicts")  # type: ignore[assignment]
    blas = built.get("Build Dependencies", {}).get("blas", {})
    slow = "" if blas.get("name", "") not in ("", "none") else "install a numpy that is built with OpenBLAS or MKL"
    yield Finding("linear algebra", f"{blas.get('name') or 'none'} {blas.get('version', '')}".strip(), slow)
    many = {name: os.environ[name] for name in THREADS if os.environ.get(name, "1") != "1"}
    advice = f"unset {' '.join(many)}: peers share the cores, and surrogate.cores is for more" if many else ""
    shown = ", ".join(f"{name}={value}" for name, value in many.items()) or "1 a process"
    yield Finding("threads", shown, advice)


def _processors() -> Iterator[Finding]:
    n = len(os.sched_getaffinity(0))
    quota = _control_group("cpu.max").split()
    limit = "" if len(quota) != 2 or quota[0] == "max" else f", of which {int(quota[0]) / int(quota[1]):g} may be used"
    yield Finding("cores", f"{n}{limit}")


def _memory() -> Iterator[Finding]:
    sizes = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, IndexError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
    limit = _control_group("memory.max")
    if limit.isdecimal():
        sizes.append(int(limit))
    free = min(sizes)
    little = "" if free >= 8 * PEER_BYTES else "eight peers need about 0.5 GB: end other programs, or take fewer peers"
    yield Finding("memory", f"{free / 1e9:.1f} GB free", little, free < PEER_BYTES)


def _control_group(name: str) -> str:
    """A limit of the container, or the like, in which this process is; empty where there is none."""
    with suppress(OSError):
        return (Path("/sys/fs/cgroup") / name).read_text(encoding="ascii").strip()
    return ""


def _limits() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OWN_DESCRIPTORS + LINK_DESCRIPTORS * NEIGHBORS
    few = "" if _at_least(hard, needed) else f"ulimit -n {needed}: a peer with {NEIGHBORS} neighbors needs so many"
    yield Finding("open files", f"{_shown(soft)}, at most {_shown(hard)}", few, True)
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    few = "" if _at_least(soft, 256) else "ulimit -u 256: each peer has about ten threads"
    yield Finding("processes", _shown(soft), few)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    little = "" if _at_least(soft, LEAST_SPACE) else f"ulimit -v unlimited, or {LEAST_SPACE >> 10} at least"
    yield Finding("address space", _shown(soft), little, True)


def _at_least(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def _disk() -> Iterator[Finding]:
    free, here = shutil.disk_usage(".").free, Path.cwd()
    advice = "" if free >= LEAST_DISK else "make room, or run in another folder: what cannot be written ends a peer"
    if not os.access(here, os.W_OK):
        advice = "run in a folder that may be written to, or give --out"
    yield Finding("disk", f"{free / 1e9:.1f} GB free in this folder", advice)


def _ports() -> Iterator[Finding]:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        problem = _bound(family, host, 0)
        needed = host == "127.0.0.1"
        advice = "peers of one host meet at ports of it: ask who keeps programs from listening there" if needed else ""
        found = "free ports can be listened on" if not problem else f"cannot listen: {problem}"
        yield Finding(f"ports of {host}", found, advice if problem else "", needed)


def _bound(family: int, host: str, port: int) -> str:
    """Why one cannot listen there; empty if one can."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((host, port))
            one.listen()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _security() -> Iterator[Finding]:
    try:
        new_key_pair()
    except Exception as error:
        advice = "install a pyzmq with CURVE, as its wheels are; security = none is for the loopback only"
        yield Finding("encryption", f"missing: {error}", advice, True)
    else:
        yield Finding("encryption", "CURVE")


def _engine() -> Iterator[Finding]:
    command = next((name for name in ("docker", "podman") if shutil.which(name)), None)
    advice = "only containers need one: https://docs.docker.com/engine/install"
    if command is None:
        yield Finding("container engine", "none", advice)
        return
    try:
        done = subprocess.run([command, "info"], capture_output=True, timeout=ENGINE_S, check=False).returncode
    except (OSError, subprocess.TimeoutExpired):
        done = 1
    found = "answers" if done == 0 else "does not answer"
    yield Finding("container engine", f"{command} {found}", "" if done == 0 else f"`{command} info` must work for you")


def _extras() -> Iterator[Finding]:
    for package, (extra, purpose) in EXTRAS.items():
        version = _version(package) or _version(INSTEAD.get(package, package))
        advice = "" if version else f"for {purpose}: pip install 'next-peer[{extra}]'"
        yield Finding(package, version or "not installed", advice)


def _addresses(experiment: Experiment) -> Iterator[Finding]:
    """Addresses of this host at which an experiment wants to listen."""
    metrics = settings.endpoint_of(experiment.metrics.openmetrics)
    places = [(address, *settings.split_address(address, "")) for address in experiment.transport.addresses]
    wanted = [(name, host, port) for name, host, port in places if is_loopback(name)]
    wanted += [(settings.place_text(*metrics), *metrics)] if metrics is not None else []
    for name, host, port in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        problem = _bound(family, host, port)
        advice = f"end what listens on port {port}, or change the address" if problem else ""
        yield Finding(name, f"cannot listen: {problem}" if problem else "free", advice, True)


def _fleet(experiment: Experiment) -> Iterator[Finding]:
    """Whether an experiment has what it needs: descriptors, and packages, those of the user's own network with them."""
    try:
        check_room(experiment)
    except ConfigError as error:
        yield Finding(experiment.name, f"cannot be launched: {error}", "raise it, or launch fewer peers", True)
    needs = {
        "scikit-learn": experiment.data.dataset not in ("", *settings.DRAWN) and not experiment.data.path,
        "tensorboardX": bool(experiment.metrics.tensorboard),
        "mlflow-skinny": bool(experiment.metrics.mlflow),
    }
    for package, holds in needs.items():
        if holds and not (_version(package) or _version(INSTEAD.get(package, package))):
            extra, purpose = EXTRAS[package]
            yield Finding(experiment.name, f"needs {package} for {purpose}", f"pip install 'next-peer[{extra}]'", True)
    if experiment.model.python:
        try:
            rehearsed(experiment)
        except ConfigError as error:
            if error.key == "model.python":
                yield Finding(
                    experiment.name, f"has no network: {error.problem}", "install what its module imports", True
                )


def read(path: Path | None, overrides: Sequence[str]) -> Experiment | None:
    """The experiment that is to be looked at, if there is one.

    Raises
    ------
    ConfigError
        It is none, or there are settings for none.
    """
    if path is None and overrides:
        raise ConfigError("--set", "expected an experiment file whose settings these change, found none")
    return None if path is None else settings.read(path, overrides)
