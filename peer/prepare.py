"""What has to be there before peers can start: their shards, their keys, and the record of the run.

Imports scikit-learn where a data set is to be cut; never in a running peer.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from peer import addresses, config, files, keys, settings
from peer.aside import aside
from peer.errors import ConfigError
from peer.frameworks import functions
from peer.settings import Experiment
from peer.transport import new_key_pair, public_of


def here(experiment: Experiment, run_dir: Path) -> tuple[Experiment, config.Ground, config.Facts]:
    """Get a run on this host ready: check all that can be checked, cut the shards, and write the run directory.

    Where a check does not pass, nothing of it stays on the disk.

    Raises
    ------
    ConfigError
        Anything that keeps the run from starting.
    """
    if any((run_dir / name).exists() for name in (files.PEERS, files.SUMMARY, files.ROUNDS)):
        raise ConfigError("--out", f"expected a folder without a run, found one in {run_dir}; nothing is replaced")
    for name in files.RECORD:  # as `peer init` names the user's own file, or `topology save` in the README
        if (run_dir / name).exists():
            raise ConfigError("--out", f"expected a folder without {name}, found one in {run_dir}; nothing is replaced")
    settings.check_text(str(run_dir.absolute()), "--out")
    ground, there, cut = aside(config.ground, experiment), run_dir.exists(), run_dir / "shards"
    shards_there = cut.exists()
    try:
        experiment = aside(with_cut_shards, experiment, cut)
        facts = aside(config.rehearse, experiment)
    except BaseException:
        if not shards_there:
            shutil.rmtree(cut, ignore_errors=True)
        if not there:
            with suppress(OSError):  # something else has come into it
                run_dir.rmdir()
        raise
    experiment = with_run_id(experiment)
    aside(config.record, experiment, ground, run_dir)
    if facts.needs_torch:
        functions.warm()
    return experiment, ground, facts


def again(experiment: Experiment, run_dir: Path) -> tuple[Experiment, config.Ground, config.Facts]:
    """Get a run on this host ready to go on: as `here`, but what its directory has stays.

    Its record is written anew where settings differ in which peers may, addresses above all.

    Raises
    ------
    ConfigError
        The directory holds another run than this, or anything keeps it from going on.
    """
    if not (run_dir / files.PEERS).is_dir():
        raise ConfigError("--resume", f"expected a run that peers have begun, found none of them in {run_dir}")
    before = settings.read(run_dir / files.EXPERIMENT)
    was, now = settings.shared(before), settings.shared(experiment)
    for key in sorted(was.keys() | now.keys()):
        if was.get(key) != now.get(key):
            found = f"expected {was.get(key)}, as the run in {run_dir} has begun with, found {now.get(key)}"
            raise ConfigError(key, found)
    folders = [files.folder_of(run_dir, peer) for peer in range(experiment.peers)]
    lost = [folder for folder in folders if not folder.exists()]
    if lost and experiment.run.mode == "rounds" and any((folder / files.INITIAL).exists() for folder in folders):
        raise ConfigError("--resume", f"expected a folder of each peer, as rounds have begun; found none at {lost[0]}")
    ground = aside(config.ground, experiment)
    facts = aside(config.rehearse, experiment)
    if experiment != before:
        aside(config.record, experiment, ground, run_dir)
    if facts.needs_torch:
        functions.warm()
    return experiment, ground, facts


def elsewhere(experiment: Experiment, run_dir: Path) -> Experiment:
    """Get a run ready whose peers are started by somebody else, each where it finds only what is its own.

    The shards go where `data.path` says, the keys where `transport.keys` says, the record of the
    run into its directory. What is there already, from an earlier call, stays.

    Returns
    -------
    Experiment
        As the peers are to read it.

    Raises
    ------
    ConfigError
        Anything that would keep a peer from starting, or something of another run is there.
    """
    transport = experiment.transport
    addresses.check_ports(experiment)
    if transport.security == "curve" and not transport.keys:
        raise ConfigError("transport.keys", "expected a folder, or with {id} one for each peer; found none")
    ground = aside(config.ground, experiment)
    path = run_dir / files.EXPERIMENT
    if path.exists():
        before = settings.read(path)
        if _without_run_id(before) != _without_run_id(experiment):
            raise ConfigError("--out", f"expected a folder without a run, found another one in {run_dir}")
        experiment = before
    if experiment.data.dataset:
        aside(_cut_into_place, experiment)
    aside(config.rehearse, experiment)
    if transport.security == "curve":
        keys.complete(transport.keys, experiment.peers, new_key_pair, public_of)
    if not path.exists():
        experiment = with_run_id(experiment)
        config.record(experiment, ground, run_dir)
    return experiment


def _without_run_id(experiment: Experiment) -> dict[str, object]:
    return settings.flat(experiment) | {"run.id": ""}


def rehearsed(experiment: Experiment) -> tuple[config.Ground, config.Facts]:
    """Check all that can be checked on this host, on shards that are cut for it; nothing of it stays.

    Raises
    ------
    ConfigError
        Anything that would keep the run from starting.
    """
    ground = aside(config.ground, experiment)
    if experiment.data.dataset:
        data = msgspec.structs.replace(experiment.data, path="", test_path="")
        experiment = msgspec.structs.replace(experiment, data=data)
    with TemporaryDirectory() as folder:
        cut = aside(with_cut_shards, experiment, Path(folder))
        return ground, aside(config.rehearse, cut)


def with_run_id(experiment: Experiment) -> Experiment:
    """The experiment with an id that tells this run from others of the same name."""
    if experiment.run.id:
        return experiment
    run = msgspec.structs.replace(experiment.run, id=f"{experiment.name}-{secrets.token_hex(4)}")
    return msgspec.structs.replace(experiment, run=run)


def with_cut_shards(experiment: Experiment, folder: Path) -> Experiment:
    """The experiment with its data set cut into a folder; call it `aside`, for it imports scikit-learn."""
    from peer.data import Cut

    data = experiment.data
    if data.path:
        return experiment
    written = Cut.of(experiment).write(folder)
    test_path = str(written[-1].absolute()) if data.test_fraction else ""
    path = f"{settings.literal(folder.absolute())}/peer-{{id:03d}}.npz"
    data = msgspec.structs.replace(data, path=path, test_path=test_path)
    return msgspec.structs.replace(experiment, data=data)


def _cut_into_place(experiment: Experiment) -> None:
    from peer.data import cut_into_place

    cut_into_place(experiment)
