"""`peer run`: one peer by itself, whose neighbors are started by others, here or on other hosts."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from peer import addresses, config, files, history, keys, process, settings
from peer.aside import aside
from peer.errors import DONE, ConfigError
from peer.host import Assignment
from peer.settings import Experiment, literal
from peer.transport import Keys, is_loopback, public_of
from topology import PeerId


def run(
    file: Path,
    me: PeerId,
    out: Path | None,
    resume: bool,
    stay: bool,
    join: str | None,
    overrides: Sequence[str],
    tell: Callable[[str], None],
) -> tuple[int, str]:
    """Run a peer to its end; its exit code, and what went wrong, empty if nothing did.

    Parameters
    ----------
    file : Path
        Experiment file.
    me : int
        Which peer.
    out : Path or None
        Run directory; where it is not given, with `resume` that of the file, if it is a run's record; else runs/NAME.
    resume, stay : bool
        As `Assignment`.
    join : str or None
        tcp://[ID@]HOST:PORT of a peer that runs, without rounds.
    overrides : sequence of str
        KEY=VALUE.
    tell : callable
        Takes a line for the user.

    Raises
    ------
    ConfigError
        What keeps the peer from starting.
    """
    # until the peer can handle them: as process 1 it would miss them
    signal.pthread_sigmask(signal.SIG_BLOCK, process.SIGNALS)
    what = settings.read(file, overrides)
    contact = addresses.contact_of(what, me, join) if join is not None else None
    n_ids = what.peers if what.run.mode == "rounds" else settings.MAX_PEERS
    if not 0 <= me < n_ids:
        raise ConfigError("--id", f"expected 0 to {n_ids - 1}, found {me}")
    if me >= what.peers and contact is None and not resume:
        raise ConfigError("--join", f"expected the address of a peer that runs, for only 0 to {what.peers - 1} begin")
    is_record = file.name == files.EXPERIMENT and files.folder_of(file.parent, me).is_dir()
    run_dir = out or (file.parent if resume and is_record else Path("runs") / what.name)
    what = with_shards(what, run_dir, file)
    transport = what.transport
    if transport.addresses or contact is None:
        addresses.check_ports(what)
    folder = files.folder_of(run_dir, me)
    if not resume and any((folder / name).exists() for name in (files.INITIAL, files.CHECKPOINT, files.FINAL)):
        raise ConfigError("--out", f"{folder} holds a run already; --resume goes on with it, another --out keeps it")
    listener, address = None, ""
    if me >= len(transport.addresses):
        known = [*([contact[1]] if contact else []), *transport.addresses]
        if not known:
            raise ConfigError("--join", "expected the address of a peer that runs, found none")
        listener, address = addresses.listener_of(what, known[0])
    listens = addresses.bind_of(what, me, address)
    pair = None
    if transport.security == "curve":
        if not transport.keys:
            whose = f"--peers {what.peers}" if me < what.peers else f"--id {me}"
            raise ConfigError("transport.keys", f"expected a folder that `peer keys DIR {whose}` wrote")
        where = keys.folder_of(transport.keys, me), me, what.peers, what.run.mode == "async"
        listed = keys.PublicList(*where)  # before it is read: what changes from now on is seen
        secret, public = keys.read(*where)
        pair = Keys(secret, public_of(secret), public, listed.changed)
        keys.check_owner(pair.public, public, me, where[0])
    elif not all(map(is_loopback, (*transport.addresses, listens, *([contact[1]] if contact else [])))):
        raise ConfigError("transport.security", "expected curve: none is for addresses of the loopback only")
    if resume and history.needs_nothing(folder):
        tell(f"done already; {folder / files.FINAL}")
        if stay:
            signal.sigwait(process.SIGNALS)
        return DONE, ""
    ground = aside(config.ground, what)
    told = transport.addresses[me] if me < len(transport.addresses) else address
    met = ", ".join(map(str, ground.union[me])) if me < what.peers else "as it joins"
    tell(f"listens on {listens} as {told}; neighbors over the run: {met or 'none'}")
    assignment = Assignment(
        what,
        ground,
        me,
        run_dir,
        pair,
        listener=listener,
        contact=contact,
        address=address,
        resume=resume,
        stay=stay,
        tell=tell,
        page=settings.endpoint_of(what.metrics.openmetrics),
    )
    code, line = process.run(assignment)
    if not line:
        tell(f"done; {folder / files.FINAL}")
    return code, line


def with_shards(experiment: Experiment, run_dir: Path, file: Path) -> Experiment:
    """The experiment of a file, a named data set replaced by the shards that were cut from it."""
    if experiment.data.path:
        return experiment
    folder = run_dir / "shards"
    if not folder.is_dir():
        places = f"data.path={literal(folder)}/peer-{{id:03d}}.npz", f"data.test_path={folder}/test.npz"
        command = shlex.join(["peer", "shard", str(file), *(word for place in places for word in ("--set", place))])
        raise ConfigError("data", f"expected shards; `{command}` cuts them")
    data = msgspec.structs.replace(experiment.data, path=f"{literal(folder)}/peer-{{id:03d}}.npz")
    return msgspec.structs.replace(experiment, data=data)
