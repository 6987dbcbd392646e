"""Every peer of an experiment as a process of its own, or some in each, on this host, forked from one warm parent.

The parent has imported what a peer needs, and nothing else, and has no ZeroMQ context; what
imports more (scikit-learn) runs `aside` beforehand. So the peers share its memory and
are up in milliseconds. It binds their ports itself, and the names by which they reach each other sooner
(`peer.transport.nearby`), hands each peer its listening sockets, makes the keys of the run, and watches. It has
looked at all shards, so that it knows how many samples there are; its peers meet their neighbors only, whatever the
diameter of the graph.

One process forks all of them, and no tree of processes: of the processor time until a peer has met its neighbors a
fork is 2 ms, and what the peer does then some 15 ms, most of it the copying of pages that it touches first. On 2
processors a tree would spread what is an eighth of the work and not what bounds the start; it could pay beyond 8
processors. Between two forks it does as little as it can: it would have to copy the pages that it touches, too.
"""

from __future__ import annotations

import fcntl
import gc
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, final

import msgspec

from peer import config, files, history, learning, memory, prepare, process, shards
from peer.door import LINK_DESCRIPTORS, OWN_DESCRIPTORS, check_descriptors
from peer.errors import BAD_INPUT, BROKEN, DONE, INTERRUPTED, LOST, ConfigError
from peer.host import Assignment
from peer.settings import Experiment, Metrics, literal
from peer.shards import Shard
from peer.sinks import check_installed
from peer.starting_line import StartingLine
from peer.transport import Keys, is_loopback, nearby, new_key_pair
from topology import Outlets, PeerId
from topology.graphs import Graph
from topology.schedules import Static

TICK_S: Final = 0.2
"""Between two looks at the peers' journals: often enough for the eye."""

LOOKING: Final = 0.05
"""Part of the time that is spent on looking at the journals, at most: those of a thousand peers take a while."""

GRACE_S: Final = 5.0
"""What the other peers get to end once one is lost; then they are killed."""

WARM_ROUNDS: Final = 12
"""After so many calls the interpreter has adapted its code to them, in memory that peers then share."""

WARM_S: Final = 1.0
"""So long at most; the rest of a computation that is going on then comes on top."""

WARM_PARAMETERS: Final = 5_000
"""Peers of a larger network have memory of their own that outweighs what they share, and rounds that take long."""

FEW_BYTES: Final = 1 << 26
"""Shards of so many bytes together, at most, are read for the peers before the first fork."""

FOLLOWER_S: Final = 30.0
"""For whoever takes numbers elsewhere to come to its end, once the peers have."""

PIPES: Final = 8
"""Descriptors of the parent, beside two listening sockets and a pipe for each peer: the pipes it holds, and files."""


@final
@dataclass(frozen=True)
class Outcome:
    """How a launch ended.

    Parameters
    ----------
    code : int
        Exit code.
    line : str
        What went wrong, in one line; empty if nothing did.
    seconds : float
        From the first fork to the last peer's end.
    finished : bool
        Whether there is a result: also where others have gone on without a peer that was lost.
    """

    code: int
    line: str
    seconds: float
    finished: bool


@contextmanager
def free_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder of this name, numbered where there are some already; it goes again if nothing came into it.

    It is made at once: who looks for one at the same time gets another.
    """
    for k in count(1):
        folder = parent / (name if k == 1 else f"{name}-{k}")
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    try:
        yield folder
    finally:
        with suppress(OSError):
            folder.rmdir()
            parent.rmdir()


@contextmanager
def claimed(run_dir: Path) -> Iterator[int]:
    """Make a run directory this process's own; the descriptor that holds it, which nobody else may keep.

    It is made where it is missing, and goes again if nothing came into it.

    Raises
    ------
    ConfigError
        Another process is at work there.
    """
    missing = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        try:
            held = os.open(run_dir, os.O_RDONLY)
        except FileNotFoundError:  # whoever had made it has removed it
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(held)
            raise ConfigError("--out", f"another run is at work in {run_dir}; nothing of it was touched") from error
        except OSError:  # a file system without locks
            break
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), run_dir.stat()):
                break
        os.close(held)
    try:
        yield held
    finally:
        with suppress(OSError):
            for folder in missing:
                folder.rmdir()
        os.close(held)


def listeners(experiment: Experiment) -> list[socket.socket]:
    """A listening socket for every peer: at its address, or at a free port of the loopback.

    Raises
    ------
    ConfigError
        An address is none, or in use.
    """
    found: list[socket.socket] = []
    for address in experiment.transport.addresses or ["tcp://127.0.0.1:0"] * experiment.peers:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        try:
            if not is_loopback(address):
                raise ValueError("launch starts peers on this host only")
            family, kind, number, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, number)
            found.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(experiment.peers)
        except (OSError, ValueError) as error:
            for listener in found:
                listener.close()
            raise ConfigError("transport.addresses", f"cannot listen on {address}: {error}") from error
    return found


def with_addresses(experiment: Experiment, sockets: list[socket.socket]) -> Experiment:
    """The experiment with the addresses of its listening sockets."""
    names = [listener.getsockname()[:2] for listener in sockets]
    addresses = tuple(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}" for host, port in names)
    return msgspec.structs.replace(
        experiment, transport=msgspec.structs.replace(experiment.transport, addresses=addresses)
    )


def launch(
    experiment: Experiment, run_dir: Path, watch: Callable[[Path, Experiment], Watcher], resume: bool = False
) -> Outcome:
    """Run every peer to its end.

    Parameters
    ----------
    experiment : Experiment
        As `read`.
    run_dir : Path
        Made by this call, or, with `resume`, that of the run.
    watch : callable
        Makes, once the peers are forked, what is told of their progress.
    resume : bool
        Whether all go on from their last checkpoints, also those that are done, as the others may need them. Keys are
        new.

    Raises
    ------
    ConfigError
        Anything that keeps the run from starting, another launch at work there, too; then nothing was written.
    """
    if resume and all(history.needs_nothing(files.folder_of(run_dir, i)) for i in range(experiment.peers)):
        return Outcome(DONE, "", 0.0, finished=True)
    check_room(experiment)
    check_installed(experiment.metrics)
    with claimed(run_dir) as held:
        sockets = listeners(experiment)
        try:
            prepared = prepare.again if resume else prepare.here
            experiment, ground, facts = prepared(with_addresses(experiment, sockets), run_dir)
        except BaseException:
            for listener in sockets:
                listener.close()
            raise
        warm_up(experiment)
        began = time.monotonic()
        alike = Assignment(experiment, ground, 0, run_dir, None, facts=facts, resume=resume)
        with _fleet(alike, sockets, held) as fleet, following(experiment, run_dir):
            goes_on = experiment.run.mode == "async"
            code, line, finished = fleet.supervise(watch(run_dir, experiment), run_dir if goes_on else None)
    return Outcome(code, line, time.monotonic() - began, finished)


def check_room(experiment: Experiment) -> None:
    """See to it that this process may open the descriptors with which it starts the peers of an experiment.

    Raises
    ------
    ConfigError
        It may not.
    """
    n, pair = experiment.peers, 2 * (OWN_DESCRIPTORS + LINK_DESCRIPTORS)
    check_descriptors(2 * n + max(n, pair) + len(groups(experiment)[0]) - 1 + PIPES, f"{n} peers")


def warm_up(experiment: Experiment) -> None:
    """Do what every peer does: what that leaves in memory is then shared by all, and not written again.

    Two peers with the shard of peer 0 talk to each other for a few rounds, in this process. What they
    made is gone after it, threads and ZeroMQ context included; nothing of it is kept.
    """
    if experiment.model.python:  # what it imports has threads, which a forked peer would not have
        return
    shard = learning.shard_of(experiment, 0)
    model = learning.model_of(experiment, shard, shard.n_classes, learning.initial_of(experiment, 0))
    if model.layout.size > WARM_PARAMETERS:
        return
    replaced = msgspec.structs.replace
    path, validation_path = (
        literal(shards.path_of(pattern, 0)) if pattern else ""
        for pattern in (experiment.data.path, experiment.data.validation_path)
    )
    pair = replaced(
        experiment,
        peers=2,
        iterations=WARM_ROUNDS,
        data=replaced(experiment.data, path=path, validation_path=validation_path),
        model=replaced(experiment.model, initial=experiment.model.initial.replace("{id}", "0")),
        run=replaced(experiment.run, checkpoint_every=min(1, experiment.run.checkpoint_every), publish=""),
        transport=replaced(experiment.transport, addresses=()),
    )
    sockets = listeners(pair)
    pair = with_addresses(pair, sockets)
    keys = new_keys(pair)
    ground = config.Ground(Static(Graph.of(2, [(0, 1)])), ((1,), (0,)), "", Outlets("static", "ring"))
    with TemporaryDirectory() as folder:
        (Path(folder) / files.EXPERIMENT).touch()  # a run directory whose record is there
        process.rehearse([Assignment(pair, ground, me, Path(folder), keys[me], sockets[me]) for me in range(2)], WARM_S)


def new_keys(experiment: Experiment, union: Sequence[Sequence[PeerId]] | None = None) -> list[Keys | None]:
    """Fresh keys of every peer, which know each other, or, with a `union`, those of their neighbors only.

    None for each where security = "none".
    """
    if experiment.transport.security != "curve":
        return [None] * experiment.peers
    pairs = [new_key_pair() for _ in range(experiment.peers)]
    whom = [range(experiment.peers)] * experiment.peers if union is None else union
    return [Keys(secret, own, {j: pairs[j][0] for j in whom[me]}) for me, (own, secret) in enumerate(pairs)]


@contextmanager
def following(experiment: Experiment, run_dir: Path) -> Iterator[None]:
    """While peers run, a process beside them that takes their numbers to where `[metrics]` says, if it does.

    It reads what they journal, and nobody waits for it before all is over. It ends with its standard input, and so
    with this process, however that ends.
    """
    if experiment.metrics == Metrics():
        yield
        return
    command = [sys.executable, "-m", "peer", "follow", str(run_dir), "--while-input"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as follower:
        try:
            yield
        finally:
            assert follower.stdin is not None
            follower.stdin.close()
            try:
                follower.wait(FOLLOWER_S)
            except subprocess.TimeoutExpired:
                follower.kill()
                print(
                    f"peer: [metrics] took more than {FOLLOWER_S:.0f} s after the run; some are lost", file=sys.stderr
                )


class Watcher:
    """Is told how the peers get on; this one keeps silent."""

    def look(self) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """The peers have ended."""


@final
class Steady(Watcher):
    """One that tells another one, for as long as that can show what it is told: a display ends no run."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def look(self) -> None:
        """Some time has passed."""
        self._tell(self._watcher.look)

    def close(self) -> None:
        """The peers have ended."""
        self._tell(self._watcher.close)

    def _tell(self, told: Callable[[], None]) -> None:
        try:
            told()
        except (OSError, SystemExit):  # of rich, where nobody reads any more, as behind `| head`
            self._watcher = Watcher()


@final
@dataclass(eq=False)
class _Fleet:
    """Processes by peer, and the pipe of each peer on which its end is reported: "0 ", or "3 what went wrong".

    And the run directory, if they keep checkpoints there.
    """

    pids: dict[PeerId, int]
    pipes: dict[PeerId, int]
    ended: dict[PeerId, tuple[int, str]]
    codes: dict[int, int] = field(default_factory=dict)
    kept_in: Path | None = None

    def supervise(self, watcher: Watcher, goes_on_in: Path | None) -> tuple[int, str, bool]:
        """Wait for all; when one is lost, end the others.

        Without rounds, in a run directory, they go on without it, unless it ended before it had met them.

        Returns
        -------
        (int, str, bool)
            Exit code, line and whether there is a result, as in `Outcome`.
        """

        def spared(peer: PeerId) -> bool:
            begun = goes_on_in is not None and (files.folder_of(goes_on_in, peer) / files.INITIAL).exists()
            return begun and self.ended[peer][0] != BAD_INPUT

        stopped_s: float | None = None
        interrupted: list[int] = []
        first: dict[PeerId, tuple[int, str]] = {}
        before = {one: signal.signal(one, lambda number, _: interrupted.append(number)) for one in process.SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, process.SIGNALS)
        next_look_s, watcher = 0.0, Steady(watcher)
        with selectors.DefaultSelector() as selector:
            for peer, pipe in self.pipes.items():
                selector.register(pipe, selectors.EVENT_READ, peer)
            while self.pids:
                for key, _ in selector.select(TICK_S):
                    selector.unregister(key.fileobj)
                    self._collect(key.data)
                if (began_s := time.monotonic()) >= next_look_s:
                    watcher.look()
                    next_look_s = time.monotonic() + (time.monotonic() - began_s) / LOOKING
                lost = {peer: end for peer, end in self.ended.items() if end[0] != DONE}
                failed = {peer: end for peer, end in lost.items() if not spared(peer)}
                if stopped_s is None and (failed or interrupted):
                    first, stopped_s = failed, time.monotonic()
                    self._signal(signal.SIGTERM)
                if stopped_s is not None and time.monotonic() - stopped_s > GRACE_S:
                    self._signal(signal.SIGKILL)
        watcher.close()
        for number, handler in before.items():  # what follows may take long, and nobody would look at `interrupted`
            signal.signal(number, handler)
        refused = {peer: end for peer, end in self.ended.items() if end[0] in (BAD_INPUT, BROKEN)}
        if interrupted and refused:
            return *_verdict(refused), False
        if interrupted:
            return INTERRUPTED, _interrupted(self.ended, self.kept_in) if self.kept_in else "interrupted", False
        lost = {peer: end for peer, end in self.ended.items() if end[0] != DONE}
        if lost and not first and len(lost) < len(self.ended):
            return LOST, _without(lost), True
        # a cause may come to its end a moment after those who noticed it
        code, line = _verdict((first or lost) | {j: end for j, end in lost.items() if end[0] in (BAD_INPUT, BROKEN)})
        return code, line, code == DONE

    def _collect(self, peer: PeerId) -> None:
        with os.fdopen(self.pipes.pop(peer), "rb") as pipe:
            said = pipe.read().decode("utf-8", "replace")
        pid = self.pids.pop(peer)
        if pid not in self.codes and (not said or pid not in self.pids.values()):  # it has ended, or is about to
            _, status = os.waitpid(pid, 0)
            self.codes[pid] = os.waitstatus_to_exitcode(status)
        if said:
            number, _, line = said.partition(" ")
            self.ended[peer] = int(number), line
        else:
            code = self.codes[pid]
            self.ended[peer] = code, f"ended by {signal.Signals(-code).name}" if code < 0 else ""

    def _signal(self, number: signal.Signals) -> None:
        for pid in set(self.pids.values()) - self.codes.keys():
            os.kill(pid, number)


def _verdict(failed: Mapping[PeerId, tuple[int, str]]) -> tuple[int, str]:
    """Exit code and line for the peers that failed first: the cause, not those who noticed it."""
    if not failed:
        return DONE, ""
    causes = {peer: end for peer, end in failed.items() if end[0] not in (LOST, INTERRUPTED)} or failed
    peer, (code, line) = min(causes.items())
    if code in (BAD_INPUT, LOST, BROKEN):
        return code, f"peer {peer}: {line}"
    return LOST, f"peer {peer} was lost: {line or f'exit code {code}'}"


def _interrupted(ended: Mapping[PeerId, tuple[int, str]], run_dir: Path) -> str:
    """What is there to go on with."""
    if not all((files.folder_of(run_dir, peer) / files.CHECKPOINT).exists() for peer in ended):
        return "interrupted before every peer had begun"
    killed = sorted(peer for peer, (code, _) in ended.items() if code < 0)
    if not killed:
        return "interrupted; every peer has written a checkpoint"
    if len(killed) == 1:
        return f"interrupted; peer {killed[0]} was killed, and goes on from an older checkpoint"
    return f"interrupted; peers {history.ranges(killed)} were killed, and go on from older checkpoints"


def _without(lost: Mapping[PeerId, tuple[int, str]]) -> str:
    """Who was lost of a run without rounds that came to its end."""
    (peer, (code, line)), *others = sorted(lost.items())
    if not others:
        return f"peer {peer} was lost ({line or f'exit code {code}'}); the others went on without it"
    named = ", ".join(f"{peer} ({line or f'exit code {code}'})" for peer, (code, line) in sorted(lost.items()))
    return f"peers {named} were lost; the others went on without them"


@contextmanager
def _fleet(alike: Assignment, sockets: list[socket.socket], claim: int) -> Iterator[_Fleet]:
    """Processes of all peers, whose assignments are alike but for what is each peer's own.

    They let go of the `claim` on the run directory, for each has one on its own folder.
    """
    experiment = alike.experiment
    keys = new_keys(experiment, None if experiment.run.mode == "async" else alike.ground.union)
    near = nearby(experiment.transport.addresses)
    few = _few_samples(experiment)
    ends = [[listener, *one.open] for listener, one in zip(sockets, near, strict=True)]
    fleet = _Fleet({}, {}, {}, kept_in=alike.run_dir if experiment.run.checkpoint_every else None)
    lifeline, held = os.pipe()  # its end tells the peers that this process is gone, however it went
    given = replace(alike, lifeline=lifeline)
    seen, in_line = os.pipe()
    gate, shut = os.pipe()  # its end tells them that all are forked: who begins before takes the processors from these
    signal.pthread_sigmask(signal.SIG_BLOCK, process.SIGNALS)  # until everybody can handle them
    gc.collect()
    memory.trim()
    gc.freeze()  # what is alive now stays shared with the peers: the collector does not touch it
    try:
        for peer in range(experiment.peers):  # who is killed before it has made its own would look like a lost disk
            files.folder_of(alike.run_dir, peer).mkdir(parents=True, exist_ok=True)
        with os.fdopen(shut, "wb"), os.fdopen(in_line, "wb"):
            for group in groups(experiment):
                assignments = [
                    replace(
                        given,
                        me=peer,
                        keys=keys[peer],
                        listener=sockets[peer],
                        nearby=near[peer],
                        shard=few[peer],
                    )
                    for peer in group
                ]
                pipes = {peer: os.pipe() for peer in group}
                pid = os.fork()
                if pid == 0:
                    close_all([claim, held, shut, *fleet.pipes.values(), *(reader for reader, _ in pipes.values())])
                    close_all(end.fileno() for peer in range(group.stop, experiment.peers) for end in ends[peer])
                    os.read(gate, 1)
                    os.close(gate)
                    starts = [StartingLine(seen, in_line) for _ in assignments]
                    close_all([seen, in_line])
                    assignments = [replace(one, start=start) for one, start in zip(assignments, starts, strict=True)]
                    _child(assignments, {peer: writer for peer, (_, writer) in pipes.items()})
                for end in (end for peer in group for end in ends[peer]):  # the peers that follow need not do it
                    end.close()
                for peer, (reader, writer) in pipes.items():
                    os.close(writer)
                    fleet.pids[peer], fleet.pipes[peer] = pid, reader
        yield fleet
    finally:
        fleet._signal(signal.SIGKILL)
        os.close(gate)
        for end in (end for own in ends for end in own):
            end.close()
        close_all([lifeline, held, seen])
        gc.unfreeze()


def _few_samples(experiment: Experiment) -> Sequence[Shard | None]:
    """Samples of all peers, where they are few; None for each that has to read its own.

    This process has just read them, and does so again in a tenth of the time that a forked peer would take, which has
    to copy whatever it touches. What is wrong with them the peer will say.
    """
    try:
        n_bytes = sum(shards.path_of(experiment.data.path, peer).stat().st_size for peer in range(experiment.peers))
        if n_bytes <= FEW_BYTES:
            return [learning.shard_of(experiment, peer) for peer in range(experiment.peers)]
    except (ConfigError, OSError):
        pass
    return [None] * experiment.peers


def groups(experiment: Experiment) -> list[range]:
    """Peers of each process: `run.agents_per_process` that follow each other, which are neighbors on many graphs."""
    n, k = experiment.peers, experiment.run.agents_per_process
    return [range(first, min(n, first + k)) for first in range(0, n, k)]


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors, those that follow each other at once: a peer of a thousand inherits as many."""
    for run in history.runs(sorted(descriptors)):
        os.closerange(run[0], run[-1] + 1)


def _child(assignments: Sequence[Assignment], writers: Mapping[PeerId, int]) -> None:
    """The life of a forked process; never returns."""
    left = dict(writers)

    def said(peer: PeerId, code: int, line: str) -> None:
        with suppress(OSError), os.fdopen(left.pop(peer), "wb") as pipe:  # the reader may be gone
            pipe.write(f"{code} {line}".encode())

    code, line = 1, ""
    try:
        if len(assignments) == 1:
            code, line = process.run(assignments[0])
        else:
            process.run_together(assignments, said)
            code = DONE
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException as error:
        line = process.bug(error)
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        try:
            for peer in list(left):
                said(peer, code, line)
        finally:  # this process must not go on as its parent's copy
            os._exit(code)
