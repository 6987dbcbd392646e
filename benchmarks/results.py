"""What was measured, as a file that pytest-benchmark reads, and what became slower since another such file.

    pytest-benchmark compare before.json after.json    # seconds, which another machine or another hour has otherwise
    python -m benchmarks --compare before.json         # ratios to what the same machine did within the same moments

Of each row the file has what that format asks for, and in `extra_info` the reference, the ratio, and all ratios.
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np
import scipy
import zmq
from pytest_benchmark import plugin
from pytest_benchmark import utils as theirs
from pytest_benchmark.stats import Stats

from benchmarks.rows import Measured
from peer import __version__
from peer.errors import ConfigError

FORMAT: Final = metadata.version("pytest-benchmark")
"""Version of the program whose format the file has."""

CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
"""Where Linux describes them."""


@final
@dataclass(frozen=True, eq=False)
class Occasion:
    """Where, when and with what it was measured.

    Parameters
    ----------
    machine, commit : mapping
        As pytest-benchmark describes them.
    versions : mapping of str to str
        Of what the numbers depend on; BLAS among them.
    seed : int
    quick : bool
    load : (float, float)
        Processes that wanted a processor, in the mean of a minute, before the first row and after the last.
    seconds : float
        That all took.
    """

    machine: Mapping[str, Any]
    commit: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int
    quick: bool
    load: tuple[float, float]
    seconds: float

    @classmethod
    def now(cls, seed: int, quick: bool, load_before: float, seconds: float) -> Occasion:
        """The present ones."""
        machine = plugin.pytest_benchmark_generate_machine_info()
        load = load_before, os.getloadavg()[0]
        return cls(machine, theirs.get_commit_info(), versions(), seed, quick, load, seconds)

    @property
    def n_processors(self) -> int:
        """Of the machine."""
        return int(self.machine["cpu"].get("count") or os.cpu_count() or 1)

    def facts(self) -> dict[str, str]:
        """All of it in words."""
        cpu, commit = self.machine["cpu"], self.commit
        clean = ", with changes that are not in it" if commit["dirty"] else ""
        return {
            "processor": f"{cpu.get('brand_raw', self.machine['machine'])}, {self.n_processors} of them",
            "caches": caches(),
            "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
            "system": f"{self.machine['system']} {self.machine['release']}, {self.machine['machine']}",
            **self.versions,
            "commit": f"{commit['id'][:12]}{clean}",
            "seed": str(self.seed),
            "load": f"{self.load[0]:.1f} before, {self.load[1]:.1f} after",
            "took": f"{self.seconds:.0f} s{', quick' if self.quick else ''}",
        }


def caches(folder: Path = CACHES) -> str:
    """Sizes of the caches of a processor, in words, as far as they are known."""
    kinds = {"Data": "L{} data", "Unified": "L{}"}
    found = []
    for one in sorted(folder.glob("index*")):
        level, kind, size = ((one / name).read_text().strip() for name in ("level", "type", "size"))
        if kind in kinds:
            found.append(f"{kinds[kind].format(level)} {size.removesuffix('K')} KiB")
    return ", ".join(found) or "unknown"


def versions() -> dict[str, str]:
    """Of this package, of Python, and of what computes and sends."""
    found = {"next-peer": __version__, "Python": platform.python_version()}
    for name, library in (("numpy", np), ("scipy", scipy)):
        blas = library.show_config(mode="dicts")["Build Dependencies"]["blas"]
        found[name] = f"{library.__version__}, with {blas['name']} {blas['version']}"
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "as many as there are processors")
    return found | {
        "BLAS threads": threads,
        "ZeroMQ": f"{zmq.zmq_version()}, pyzmq {zmq.__version__}",
        "msgpack": metadata.version("msgpack"),
        "msgspec": msgspec.__version__,
    }


def stats_of(values: Sequence[float]) -> Stats:
    """Median, quartiles and what else the format knows of some values."""
    stats = Stats()
    for value in values:
        stats.update(value)
    return stats


def command_of(name: str, occasion: Occasion) -> str:
    """What measures a row again."""
    quick = " --quick" if occasion.quick else ""
    return f"python -m benchmarks --only {shlex.quote(name)} --seed {occasion.seed}{quick}"


def document(found: Sequence[Measured], occasion: Occasion) -> dict[str, Any]:
    """All rows, as pytest-benchmark has them."""
    return {
        "machine_info": {**occasion.machine, "versions": dict(occasion.versions)},
        "commit_info": dict(occasion.commit),
        "benchmarks": [_entry(one, occasion) for one in found],
        "datetime": datetime.datetime.now(datetime.UTC).isoformat(),
        "version": FORMAT,
        "occasion": {
            "seed": occasion.seed,
            "quick": occasion.quick,
            "load": list(occasion.load),
            "seconds": occasion.seconds,
        },
    }


def _entry(one: Measured, occasion: Occasion) -> dict[str, Any]:
    row, ratio = one.row, stats_of(one.ratios)
    return {
        "group": row.group,
        "name": one.name,
        "fullname": f"benchmarks/{row.group}::{one.name}",
        "params": None,
        "param": None,
        "extra_info": {
            "ours": row.ours,
            "reference": row.reference,
            "work": row.work,
            "clock": one.clock,
            "command": command_of(row.name, occasion),
            "ratio": ratio.median,
            "ratio_stats": ratio.as_dict(),
            "ratios": one.ratios,
            "reference_stats": stats_of(one.reference_s).as_dict(),
        },
        "options": {"timer": "process_time" if one.clock == "processor" else "monotonic", "warmup": True},
        "stats": {**stats_of(one.ours_s).as_dict(), "data": one.ours_s, "iterations": one.turns[0].calls},
    }


# ---- reading and comparing -----------------------------------------------------------------


class Extra(msgspec.Struct, frozen=True):
    """What a comparison needs of a row, beside its name."""

    ratios: list[float]


class Entry(msgspec.Struct, frozen=True):
    """A row of a file."""

    name: str
    extra_info: Extra


class Machine(msgspec.Struct, frozen=True):
    """What a comparison says of where a file comes from."""

    cpu: dict[str, Any] = {}
    versions: dict[str, str] = {}


class Saved(msgspec.Struct, frozen=True):
    """A file of results."""

    benchmarks: list[Entry]
    machine_info: Machine = Machine()


def read(path: Path) -> Saved:
    """A file that `document` made.

    Raises
    ------
    ConfigError
        There is none, or it is something else.
    """
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=Saved)
    except OSError as error:
        raise ConfigError(str(path), f"expected results of python -m benchmarks: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(str(path), f"expected results of python -m benchmarks, found: {error}") from error
    for entry in saved.benchmarks:
        if not entry.extra_info.ratios or not all(isfinite(r) and r > 0.0 for r in entry.extra_info.ratios):
            raise ConfigError(str(path), f"expected ratios > 0 of {entry.name}, found {entry.extra_info.ratios}")
    return saved


@final
@dataclass(frozen=True)
class Change:
    """A row in two files.

    Parameters
    ----------
    name : str
    old, new : (float, float, float)
        First quartile, median and third quartile of its ratios.
    """

    name: str
    old: tuple[float, float, float]
    new: tuple[float, float, float]

    @property
    def factor(self) -> float:
        """Of the medians: above 1 it is slower."""
        return self.new[1] / self.old[1]

    @property
    def is_slower(self) -> bool:
        """Whether it is beyond the spread: the middle half of the new ratios is above that of the old ones."""
        return self.new[0] > self.old[2]

    @property
    def is_faster(self) -> bool:
        """Likewise, below."""
        return self.new[2] < self.old[0]


def changes(old: Saved, new: Saved) -> list[Change]:
    """Of all rows that both have, in the order of the new one."""
    before = {entry.name: entry.extra_info.ratios for entry in old.benchmarks}
    return [
        Change(entry.name, _quartiles(before[entry.name]), _quartiles(entry.extra_info.ratios))
        for entry in new.benchmarks
        if entry.name in before
    ]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    stats = stats_of(values)
    return stats.q1, stats.median, stats.q3


def differences(old: Saved, new: Saved) -> list[str]:
    """What else differs between two files than the code, in words."""
    then, now = (
        {"processor": str(saved.machine_info.cpu.get("brand_raw", "unknown")), **saved.machine_info.versions}
        for saved in (old, new)
    )
    return [
        f"{key}: {then.get(key, 'unknown')}, now {now.get(key, 'unknown')}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def in_words(seconds: float) -> str:
    """Seconds with three digits and a unit."""
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= factor:
            return f"{seconds / factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds / 1e-9:.0f} ns"
