"""The command line: `peer`, or `python -m peer`. Each command imports what it needs, and nothing before."""

from __future__ import annotations

import io
import os
import re
import resource
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from peer import __version__, completion, files
from peer.errors import BAD_INPUT, DONE, INTERRUPTED, ConfigError, refusal

if TYPE_CHECKING:
    from peer.settings import Experiment

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
DEFAULT = Path(__file__).with_name("default.toml")

OF_NUMBERS: Final = ("diabetes", "quadratic")
"""Data sets whose targets are real numbers, whatever the loss."""

LEAST_BYTES: Final = 1 << 28
"""Of address space for a peer: a small one was measured to need 220 MB."""


def main() -> None:
    """Entry point. One BLAS thread a peer, unless the environment says otherwise: peers share the cores."""
    for library in ("OPENBLAS", "OMP", "MKL", "VECLIB_MAXIMUM"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    open_streams()
    if os.getpid() == 1:  # of a container, which the system spares a signal that is not handled
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    try:
        code = cli.main(standalone_mode=False, complete_var=completion.VARIABLE)
    except click.exceptions.Abort:
        code = INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = BAD_INPUT
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        command = context.command_path if context is not None else "peer"
        complain(f"{error.format_message()}; `{command} --help` says what it takes")
        code = BAD_INPUT
    except ConfigError as error:
        complain(str(error))
        code = BAD_INPUT
    except (OSError, MemoryError) as error:
        complain(refusal(error))
        code = BAD_INPUT
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):  # nobody reads any more
            stream.flush()
    os._exit(code if isinstance(code, int) else DONE)  # a computation that was interrupted may still run on its thread


def open_streams() -> None:
    """Streams that were closed from the beginning lead nowhere: their descriptors would be those of sockets and pipes.

    In this order, for each gets the lowest descriptor that is free. And a name, or a bar, on a terminal that is no
    UTF-8 ends no run.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def check_address_space() -> None:
    """Refuse what cannot go well: where the libraries of linear algebra find too little, one of them waits for ever.

    Raises
    ------
    ConfigError
        Less than LEAST_BYTES are allowed.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY and soft < LEAST_BYTES:
        raise ConfigError("ulimit -v", f"expected {LEAST_BYTES >> 20} MiB of address space, found {soft >> 20}")


def complain(line: str) -> None:
    """One line on stderr, if anybody reads that."""
    with suppress(BrokenPipeError):
        click.echo("peer: " + " ".join(line.split()), err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="peer")
def cli() -> None:
    """Train one network across peers that talk only to their neighbors."""


def peer_id(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Number of a peer, plain or at the end of a name: "3", or "wdbc-3", as stateful sets name their pods."""
    if text is None:
        return None
    found = re.fullmatch(r"(?:.*\w-)?([0-9]{1,9})", text)
    if found is None:
        raise click.BadParameter(f"expected the number of a peer, or a name that ends in -NUMBER; found {text!r}")
    return int(found[1])


def with_id(required: bool, says: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option that names a peer."""
    about = f"{says} 0-based; PEER_ID where it is not given."
    return click.option("--id", "me", callback=peer_id, envvar="PEER_ID", required=required, help=about)


def given_options() -> dict[str, str]:
    """Parameters of the current command that its command line has, and the option of each."""
    context = click.get_current_context()
    options = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
    return {
        name: option
        for name, option in options.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that overrides settings."""
    about = "Override a setting."
    option = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help=about, shell_complete=completion.overrides
    )
    return option(command)


@cli.command()
@click.argument("experiment", type=FILE, required=False, shell_complete=completion.experiments)
@click.option("--peers", type=int, help="Number of peers, instead of the experiment's.")
@click.option("--out", type=FOLDER, help="Run directory; runs/NAME where it is not given.")
@click.option("--central", is_flag=True, help="Train the same network centrally too, and show both.")
@click.option("--agents-per-process", "together", type=int, metavar="K", help="So many peers share a process; else 1.")
@click.option(
    "--resume",
    type=FOLDER,
    metavar="RUN_DIR",
    help="Go on with a run that did not end.",
    shell_complete=completion.runs,
)
@with_settings
def launch(
    experiment: Path | None,
    peers: int | None,
    out: Path | None,
    central: bool,
    together: int | None,
    resume: Path | None,
    overrides: tuple[str, ...],
) -> int:
    """Start every peer of EXPERIMENT on this host; without a file, of the built-in one.

    \b
    peer launch
    peer launch examples/digits.toml --peers 12 --set model.hidden=[32]
    peer launch --resume runs/digits
    """
    check_address_space()
    from peer import launcher, settings

    given = (*overrides, *([f"peers={peers}"] if peers is not None else []))
    given += (f"run.agents_per_process={together}",) if together is not None else ()
    if resume is not None and (experiment is not None or out is not None or peers is not None):
        raise ConfigError("--resume", "expected a run directory alone, without an experiment, --out or --peers")
    what = settings.read(experiment or DEFAULT if resume is None else resume / files.EXPERIMENT, given)
    watchers: list[Any] = []

    def watch(run_dir: Path, resolved: Experiment) -> launcher.Watcher:
        from peer.console import Progress, screen

        watchers.append(Progress(screen(), run_dir, resolved))
        return watchers[0]  # type: ignore[no-any-return]

    if resume is not None and (resume / files.SUMMARY).exists():
        if central:
            summarize(resume, None, central)
        else:
            click.echo(f"done already; {resume}/summary.json")
        return DONE
    given_folder = resume or out
    place = nullcontext(given_folder) if given_folder else launcher.free_folder(Path("runs"), what.name)
    with place as run_dir:
        outcome = launcher.launch(what, run_dir, watch, resume is not None)
    if outcome.finished:
        seconds = outcome.seconds or None if resume is None else None  # of all parts, as the journals have it
        summarize(run_dir, seconds, central or (experiment is None and resume is None))
    if outcome.code != DONE:
        goes_on = outcome.code == INTERRUPTED and what.run.checkpoint_every
        complain(
            outcome.line + (f"; {shlex.join(['peer', 'launch', '--resume', str(run_dir)])} goes on" if goes_on else "")
        )
    return outcome.code


def summarize(run_dir: Path, seconds: float | None, central: bool) -> None:
    """Write and show the summary of a run."""
    from peer import settings, summary
    from peer.console import screen, show_summary

    found = summary.of_run(settings.read(run_dir / files.EXPERIMENT), run_dir, seconds, central)
    summary.write(found, run_dir / files.SUMMARY)
    with suppress(BrokenPipeError, SystemExit):  # of rich, where nobody reads any more
        show_summary(screen(), found, run_dir)


@cli.command()
@click.argument("experiment", type=FILE)
@click.option(
    "--grid", multiple=True, metavar="KEY=VALUE,VALUE,...", help="A setting and its values; as often as liked."
)
@click.option("--seeds", default=1, show_default=True, help="Runs of each point, from the experiment's seed on.")
@click.option("--out", type=FOLDER, help="Folder of the sweep; sweeps/NAME where it is not given.")
@click.option("--jobs", type=click.IntRange(min=1), help="Cells at a time; else as many as have cores.")
@click.option("--simulate", is_flag=True, help="All peers of a cell in one process, without sockets: the same numbers.")
@with_settings
def sweep(
    experiment: Path,
    grid: tuple[str, ...],
    seeds: int,
    out: Path | None,
    jobs: int | None,
    simulate: bool,
    overrides: tuple[str, ...],
) -> int:
    """Run EXPERIMENT over a grid of settings, and seeds. Called again, it goes on with what is not done.

    \b
    peer sweep examples/digits.toml --grid surrogate.tau=0.1,1,10 --seeds 5
    peer sweep examples/digits.toml --grid data.partition=iid,label-sorted --grid 'model.hidden=[16],[32,16]' --simulate
    """
    check_address_space()
    from peer import sweep_run
    from peer.sweep import Plan

    def draw(told: Iterator[Mapping[str, Any]]) -> None:
        from peer import sweep_view
        from peer.console import screen

        sweep_view.draw(screen(), told)

    plan = Plan.of(experiment, overrides, grid, seeds)
    folder = out or Path("sweeps") / plan.base.name
    n_cores = len(os.sched_getaffinity(0))
    with sweep_run.drawn_by(draw) as show:
        results = sweep_run.run(plan, folder, simulate=simulate, jobs=jobs, show=show, n_cores=n_cores)
    from peer import sweep_view
    from peer.console import screen

    with suppress(BrokenPipeError, SystemExit):  # of rich, where nobody reads any more
        sweep_view.show(screen(), plan, results, folder)
    return sweep_run.exit_code(results)


@cli.command()
@click.argument("experiment", type=FILE, shell_complete=completion.experiments)
@click.option("--agents", type=int, help="Number of agents, instead of the experiment's peers.")
@click.option("--rounds", type=int, help="Rounds, instead of the experiment's iterations.")
@click.option("--graph", default="", help="torus, or random-K with K neighbors, instead of the experiment's graph.")
@click.option("--out", type=FOLDER, help="Run directory; runs/NAME-simulated where it is not given.")
@with_settings
def simulate(
    experiment: Path, agents: int | None, rounds: int | None, graph: str, out: Path | None, overrides: tuple[str, ...]
) -> int:
    """Run very many agents of EXPERIMENT in one process, in arrays: for studies of graphs and rounds.

    \b
    peer simulate examples/hundred-thousand.toml
    peer simulate examples/hundred-thousand.toml --agents 1000 --graph random-8 --set topology.schedule=static
    """
    check_address_space()
    from peer import scaling

    return scaling.command(experiment, agents, rounds, graph, out, overrides, click.echo)


@cli.command()
@click.argument("experiment", type=FILE, shell_complete=completion.experiments)
@with_id(required=True, says="Which peer this is,")
@click.option(
    "--out",
    type=FOLDER,
    help="Run directory; else, with --resume, that of EXPERIMENT, if it is a run's record; else runs/NAME.",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in the run directory, if there is one.")
@click.option("--stay", is_flag=True, help="When done, stay until SIGTERM: for what starts anew whatever ends.")
@click.option("--join", metavar="tcp://[ID@]HOST:PORT", help="Without rounds: a peer that runs, to come in by.")
@with_settings
def run(
    experiment: Path,
    me: int,
    out: Path | None,
    resume: bool,
    stay: bool,
    join: str | None,
    overrides: tuple[str, ...],
) -> int:
    """Run one standalone peer of EXPERIMENT.

    \b
    peer run examples/three.toml --id 0
    peer run examples/three.toml --id 0 --resume
    peer run examples/elastic.toml --id 3 --join tcp://127.0.0.1:5700
    """
    check_address_space()
    from peer import standalone

    def tell(line: str) -> None:
        click.echo(f"peer {me}: {line}")

    code, line = standalone.run(experiment, me, out, resume, stay, join, overrides, tell)
    if line:
        click.echo(f"peer {me}: {line}", err=True)
    return code


@cli.command()
@click.argument("run_dir", type=FOLDER, shell_complete=completion.runs)
@with_id(required=True, says="Which peer,")
@click.option(
    "--within", default=30.0, show_default=True, help="Seconds in which a round or waking must have been done."
)
def health(run_dir: Path, me: int, within: float) -> int:
    """Say how peer --id of RUN_DIR gets on; exit code 0 if it makes progress or is done, else 1.

    \b
    peer health runs/three --id 0
    """
    import time

    from peer import history, settings

    if not within > 0.0:
        raise ConfigError("--within", f"expected a number of seconds > 0, found {within}")
    history.refuse_simulated(run_dir, "peer health")
    path = run_dir / files.EXPERIMENT
    counted = "wakings" if path.exists() and settings.read(path).run.mode == "async" else "rounds"
    found = history.health(files.folder_of(run_dir, me), within, time.time(), counted)
    click.echo(f"peer {me}: {found.line}", err=not found.good)
    return 0 if found.good else 1


@cli.command()
@click.argument("experiment", type=FILE, shell_complete=completion.experiments)
@click.option("--out", type=FOLDER, required=True, help="Run directory.")
@with_settings
def prepare(experiment: Path, out: Path, overrides: tuple[str, ...]) -> int:
    """Get a run ready whose peers are started by others: cut shards, make keys, write the run directory.

    Shards go where data.path says, keys where transport.keys says; with {id} in these, a folder
    for each peer. What an earlier call made stays. Peers then run OUT/experiment.toml.

    \b
    peer prepare examples/digits.toml --out runs/digits \\
        --set data.path=shards/{id}/peer-{id:03d}.npz --set data.test_path=shards/test/test.npz \\
        --set transport.keys=keys/{id} --set 'transport.addresses=["tcp://a:5555", ...]'
    """
    from peer import prepare as preparation
    from peer import settings

    preparation.elsewhere(settings.read(experiment, overrides), out)
    click.echo(out / files.EXPERIMENT)
    return DONE


@cli.command()
@click.argument("dataset")
@with_id(required=False, says="With an experiment file: only this peer's shard,")
@click.option("--peers", type=int, help="Number of shards.")
@click.option("--out", type=FOLDER, help="Folder for peer-000.npz, ... and test.npz.")
@click.option("--partition", default="iid", show_default=True, help="iid, dirichlet or label-sorted.")
@click.option("--dirichlet-alpha", default=0.5, show_default=True, help="Small is unequal.")
@click.option("--test-fraction", default=0.25, show_default=True, help="Part that is held out.")
@click.option("--standardize/--raw", default=True, show_default=True, help="To mean 0 and deviation 1.")
@click.option("--loss", default="cross_entropy", help="squared and huber make real targets of classes.")
@click.option("--seed", default=0, show_default=True, help="Root of all randomness.")
@click.option("--dimension", type=int, help="Of a set that is drawn: columns of x.  [default: 20]")
@click.option("--samples", type=int, help="Of a set that is drawn: how many.  [default: 10000]")
@click.option("--separation", type=float, help="Of gaussian-mixture: ||Delta||.  [default: 0.5]")
@with_settings
def shard(
    dataset: str,
    me: int | None,
    peers: int | None,
    out: Path | None,
    partition: str,
    dirichlet_alpha: float,
    test_fraction: float,
    standardize: bool,
    loss: str,
    seed: int,
    dimension: int | None,
    samples: int | None,
    separation: float | None,
    overrides: tuple[str, ...],
) -> int:
    """Cut DATASET into one file a peer, and a test set.

    Data sets: breast-cancer, diabetes, digits, wine; quadratic and gaussian-mixture, which are drawn
    from a known law with the seed, and never standardized.

    Or DATASET is an experiment file: then its data set is cut as it says, into the files that its
    data.path and data.test_path name; files of the same cut that are there already stay.

    \b
    peer shard breast-cancer --peers 3 --out shards
    peer shard digits --peers 8 --out shards --partition label-sorted
    peer shard quadratic --peers 5 --out shards --dimension 50 --samples 20000
    peer shard mine.toml --id 0
    """
    from peer import settings
    from peer.data import Cut, cut_into_place

    drawn = {"dimension": dimension, "samples": samples, "separation": separation}
    of_file, given = dataset.endswith(".toml"), given_options()
    of_named = {"overrides", "me", *(() if dataset in settings.DRAWN else drawn)}
    of_named |= {"loss"} if dataset in OF_NUMBERS else set()
    of_named |= {"dirichlet_alpha"} if partition != "dirichlet" else set()
    unused = given.keys() - {"dataset", "overrides", "me"} if of_file else given.keys() & of_named
    for name in sorted(unused):
        how = "--set does, of an experiment file" if of_file else f"it changes nothing of {dataset}"
        raise ConfigError(given[name], f"expected no such option here: {how}")
    if of_file:
        for path in cut_into_place(settings.read(Path(dataset), overrides), me):
            click.echo(path)
        return DONE
    if peers is None or out is None:
        raise click.UsageError("expected --peers and --out with the name of a data set", click.get_current_context())
    tree = {
        "peers": peers,
        "seed": seed,
        "data": {
            "dataset": dataset,
            "partition": partition,
            "dirichlet_alpha": dirichlet_alpha,
            "test_fraction": test_fraction,
            "standardize": standardize,
            **{key: value for key, value in drawn.items() if value is not None},
        },
        "objective": {"loss": "squared" if dataset in OF_NUMBERS else loss},
    }
    what = settings.from_tree(tree)
    if out.exists() and any(out.iterdir()):
        raise ConfigError("--out", f"expected an empty folder, found files in {out}; nothing is replaced")
    for path in Cut.of(what).write(out):
        click.echo(path)
    return DONE


@cli.command()
@click.argument("run_dirs", type=FOLDER, nargs=-1, required=True, metavar="RUN_DIR...", shell_complete=completion.runs)
@click.option("--png", is_flag=True, help="Write each figure as a picture, too, 300 dots an inch.")
@click.option("--csv", "numbers", is_flag=True, help="Write the numbers behind each figure, too.")
@click.option(
    "--out", type=FILE, help="The page; else report.html in RUN_DIR, or of several runs in the current folder."
)
@click.option("--wait", is_flag=True, help="First wait until every peer has ended well.")
def report(run_dirs: tuple[Path, ...], png: bool, numbers: bool, out: Path | None, wait: bool) -> int:
    """Figures and tables of runs, finished ones or running ones, as one page.

    Several runs are laid side by side: a curve for each, or for those that differ in their seed only their median and
    spread, and a panel for each data set. Pictures and numbers go into the folder beside the page that has its name. A
    finished run gets its summary.json too, if it has none.

    \b
    peer report runs/wdbc
    peer report runs/wdbc --wait
    peer report runs/* --out all.html --png --csv
    """
    try:
        from peer.report import command
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        raise ConfigError("report", "needs matplotlib: pip install 'next-peer[report]'") from error
    for written in command.run(run_dirs, out, png, numbers, wait, click.echo):
        click.echo(written)
    return DONE


@cli.command()
@click.argument("source", required=False, metavar="[RUN_DIR | tcp://HOST:PORT]", shell_complete=completion.runs)
@click.option("--port", default=0, help="Of the page, on the loopback; a free one where it is not given.")
@click.option("--keys", type=FOLDER, help="Of the peers, where they publish beyond this host; see `peer keys`.")
@with_id(required=False, says="With --keys: whose pair is used,")
def watch(source: str | None, port: int, keys: Path | None, me: int | None) -> int:
    """Show RUN_DIR on a page of this host, live and again afterwards; without one, the newest in runs/.

    Or what peers tell that have `[run] publish`, from now on; peer i is at the port plus i.

    \b
    peer watch
    peer watch runs/wdbc --port 8000
    peer watch tcp://127.0.0.1:5600
    """
    with suppress(OSError):
        os.nice(19)  # before it imports what it needs: peers on this host come first
    from peer.watching import command

    if keys is not None and not (source or "").startswith("tcp://"):
        raise ConfigError("--keys", "expected with tcp://HOST:PORT, for what is read here needs no keys")
    if "me" in given_options() and keys is None:
        raise ConfigError("--id", "expected with --keys, whose pair it names")
    return command.watch(source, port, click.echo, keys, me or 0)


@cli.command()
@click.argument("run_dir", type=FOLDER, shell_complete=completion.runs)
@click.option("--format", "form", type=click.Choice(files.FORMATS), required=True, help="Of the file.")
@click.option("--out", type=FILE, help="The file; RUN_DIR/model.FORMAT where it is not given.")
@click.option("--peer", type=int, help="Whose network; else the mean of all members' parameters.")
@click.option("--dtype", type=click.Choice(["float64", "float32"]), help="Of numbers.  [default: float32 in onnx]")
@click.option("--softmax", is_flag=True, help="Of onnx: an output `probabilities`, too.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def export(
    run_dir: Path, form: str, out: Path | None, peer: int | None, dtype: str | None, softmax: bool, force: bool
) -> int:
    """Write the trained network of RUN_DIR to a file, with the standardization of its data.

    npz and safetensors hold the parameters by name; an onnx model computes, from samples as they
    were before standardization. Networks of your own go into npz and safetensors.

    \b
    peer export runs/wdbc --format npz
    peer export runs/wdbc --format safetensors --peer 3 --out peer-3.safetensors
    peer export runs/wdbc --format onnx --softmax
    """
    from peer import export as exports

    path, found = exports.write(run_dir, form, out, peer, dtype, softmax, force)
    click.echo(path)
    if not found.known:
        complain("files were used as they are: what you did to them before, do to what you predict from, too")
    return DONE


@cli.command()
@click.argument("run_dir", type=FOLDER, shell_complete=completion.runs)
@click.option("--tensorboard", type=FOLDER, help="Write TensorBoard's events into DIR/RUN.", metavar="DIR")
@click.option("--mlflow", default="", metavar="URI", help="Make a run of MLflow: a tracking URI, or a folder.")
@click.option("--openmetrics", default="", metavar="[HOST:]PORT", help="Serve OpenMetrics text; on the loopback.")
@click.option("--while-input", is_flag=True, hidden=True, help="End with the standard input, and not with the run.")
def follow(run_dir: Path, tensorboard: Path | None, mlflow: str, openmetrics: str, while_input: bool) -> int:
    """Take the numbers of RUN_DIR to other tools, while it runs or afterwards; ends with the run.

    Without options to where [metrics] of the experiment says: `peer launch` does that by itself.
    Peers do not notice: what they journal is read.

    \b
    peer follow runs/wdbc --tensorboard tensorboard
    peer follow runs/wdbc --mlflow http://127.0.0.1:5000
    peer follow runs/wdbc --openmetrics 9464
    """
    from peer import follow as following
    from peer.settings import Metrics

    given = Metrics(str(tensorboard.absolute()) if tensorboard else "", mlflow, openmetrics)
    what = following.experiment_of(run_dir, given)
    following.follow(run_dir, what, lambda line: None if while_input else click.echo(line), while_input)
    return DONE


@cli.command()
@click.argument("file", type=FILE, default="experiment.toml")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path, force: bool) -> int:
    """Write an experiment file to begin with: every setting with its meaning and its default.

    \b
    peer init
    peer init mine.toml && peer check mine.toml && peer launch mine.toml
    """
    import msgspec

    from peer import npz, settings, template

    what = msgspec.structs.replace(settings.read(DEFAULT), name=file.stem)
    settings.check(what)
    if file.exists() and not force:
        raise ConfigError(str(file), "expected no file, found one; --force replaces it")
    npz.replace(file, lambda out: out.write(template.text(what, file.name).encode()))
    click.echo(file)
    return DONE


@cli.command()
@click.argument("experiment", type=FILE, required=False, shell_complete=completion.experiments)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@with_settings
def doctor(experiment: Path | None, as_json: bool, overrides: tuple[str, ...]) -> int:
    """Say whether this host can run peers, or EXPERIMENT: exit code 0 if so, else 2, with what to do.

    \b
    peer doctor
    peer doctor examples/three.toml --json
    """
    import json
    from dataclasses import asdict

    from peer import doctor as doctors

    found = doctors.examine(doctors.read(experiment, overrides))
    if as_json:
        click.echo(json.dumps([asdict(finding) | {"mark": finding.mark} for finding in found], indent=2))
    for finding in found if not as_json else ():
        click.echo(f"{finding.mark:5}{finding.name:24}{finding.found}")
        if finding.advice:
            click.echo(f"{'':29}{finding.advice}")
    return BAD_INPUT if any(finding.mark == "BAD" for finding in found) else DONE


@cli.command("completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
def completion_command(shell: str) -> int:
    """Print what makes SHELL complete commands, experiment files, settings and run directories.

    \b
    eval "$(peer completion bash)"
    peer completion zsh >~/.zfunc/_peer
    peer completion fish >~/.config/fish/completions/peer.fish
    """
    click.echo(completion.source(cli, shell))
    return DONE


def in_words(lengths: Sequence[int]) -> str:
    """How long windows are."""
    if not lengths:
        return "none, for no round is left when all could know of the first one"
    least, most = min(lengths), max(lengths)
    return f"{most} rounds" if least == most else f"{least} to {most} rounds"


@cli.command()
@click.argument("experiment", type=FILE, shell_complete=completion.experiments)
@with_settings
def check(experiment: Path, overrides: tuple[str, ...]) -> int:
    """Validate EXPERIMENT, and print what it comes to; start nothing.

    \b
    peer check examples/digits.toml
    """
    from peer import config, settings, wire
    from peer.aside import aside
    from peer.prepare import rehearsed
    from topology.gossip import round_rate
    from topology.outlets import wakings_to_connect
    from topology.windows import connectivity_window, window_lengths

    what = settings.read(experiment, overrides)
    ground, facts = rehearsed(what)
    form = config.form_of(what, what.peers, facts.n_parameters)
    degrees = [len(neighbors) for neighbors in ground.union]
    mode: tuple[tuple[str, object], ...]
    if what.run.mode == "async":
        n_wakings = aside(wakings_to_connect, ground.outlets, tuple(range(what.peers)), what.iterations)
        mode = (
            ("bytes a neighbor and waking", wire.flow_bytes(form)),
            ("wakings until strongly connected", n_wakings),
        )
    else:
        n_steps, unit = ground.gossip.n_steps, "rounds" if ground.gossip.n_steps == 1 else "exchanges"
        window = aside(connectivity_window, ground.schedule, what.n_exchanges)
        flooding = aside(window_lengths, ground.schedule, what.iterations, n_steps)
        rate = aside(round_rate, ground.schedule, what.iterations, ground.weights, ground.gossip)
        mode = (
            *((("exchanges a round", f"{n_steps}, {what.topology.consensus}"),) if n_steps > 1 else ()),
            ("bytes a neighbor and round", n_steps * wire.share_bytes(form)),
            ("connectivity window", f"{window} {unit}"),
            ("windows of stopping early", in_words(flooding)),
            ("mixing rate", f"{rate:.6f} a round"),
        )
    click.echo(settings.to_toml(what))
    for label, value in (
        ("samples", ", ".join(map(str, facts.n_samples))),
        ("network", " - ".join(map(str, facts.widths))),
        ("parameters", facts.n_parameters),
        *mode,
        *config.chosen(what, ground),
        ("neighbors over the run", f"{min(degrees)} to {max(degrees)}"),
    ):
        click.echo(f"# {label}: {value}")
    return DONE


@cli.command()
@click.argument("experiment", type=FILE, shell_complete=completion.experiments)
@click.option("--image", default="next-peer", show_default=True, help="Name of the image.")
@click.option("--build", metavar="DIR", help="Folder with the Dockerfile; the current one, if it has one.")
@click.option("--memory", default="512m", show_default=True, help="Of each peer, at most.")
@click.option("--cpus", default=1.0, show_default=True, help="Of each peer, at most.")
@with_settings
def compose(
    experiment: Path, image: str, build: str | None, memory: str, cpus: float, overrides: tuple[str, ...]
) -> int:
    """Print a docker-compose file for EXPERIMENT, a container a peer; paths in it are relative to the current folder.

    \b
    peer compose examples/digits.toml > docker-compose.yml && docker-compose up
    """
    from peer import compose as composing
    from peer import settings
    from peer.prepare import rehearsed

    what = settings.read(experiment, overrides)
    rehearsed(what)  # what would stop the containers, stops here
    context = build if build is not None else "." * Path("Dockerfile").exists()
    containers = composing.Containers(image, context, memory, cpus)
    text = composing.text(what, experiment, containers, Path.cwd(), overrides)
    click.echo(text.encode(), nl=False)  # as below
    return DONE


@cli.command()
@click.argument("folder", type=FOLDER, metavar="DIR")
@click.option("--peers", type=int, help="Number of key pairs, for a new folder.")
@click.option("--id", "me", type=int, help="Or one more pair, for this peer, in a folder that has some.")
def keys(folder: Path, peers: int | None, me: int | None) -> int:
    """Make CURVE key pairs in DIR: public.toml for all, peer-000.secret, ... for one host each.

    A peer that runs reads its list again when somebody comes whose key is not on it.

    \b
    peer keys keys --peers 3
    peer keys keys --id 3
    """
    from peer import keys as key_files
    from peer.settings import MAX_PEERS
    from peer.transport import new_key_pair

    if (peers is None) == (me is None):
        raise click.UsageError("expected --peers or --id", click.get_current_context())
    if me is not None:
        if not 0 <= me < MAX_PEERS:
            raise ConfigError("--id", f"expected 0 to {MAX_PEERS - 1}, found {me}")
        written = key_files.add(folder, me, new_key_pair())
    else:
        assert peers is not None
        if not 1 <= peers <= MAX_PEERS:
            raise ConfigError("--peers", f"expected 1 to {MAX_PEERS}, found {peers}")
        written = key_files.write(folder, {peer: new_key_pair() for peer in range(peers)})
    for path in written:
        click.echo(path)
    return DONE


@cli.command()
@click.argument("experiment", type=FILE, shell_complete=completion.experiments)
@click.option("--image", default="next-peer", show_default=True, help="Image of this program.")
@click.option("--namespace", default="", help="Namespace; else the one that is current when they are applied.")
@click.option("--keys", "key_folder", type=FOLDER, help="Folder that `peer keys` wrote; else keys are made.")
@click.option("--storage", default="1Gi", show_default=True, help="Size of each claim.")
@click.option("--storage-class", default="", help="Storage class of the shards; else the cluster's default.")
@click.option("--results-class", default="", help="Storage class of the results, which all peers write to.")
@with_settings
def kubernetes(
    experiment: Path,
    image: str,
    namespace: str,
    key_folder: Path | None,
    storage: str,
    storage_class: str,
    results_class: str,
    overrides: tuple[str, ...],
) -> int:
    """Print manifests that run EXPERIMENT on Kubernetes, a pod each peer. They hold the peers' secret keys.

    \b
    peer kubernetes examples/digits.toml --set peers=12 >run.yaml
    kubectl apply --server-side -f run.yaml
    """
    from peer import kubernetes as cluster
    from peer import settings
    from peer.manifests import Cluster
    from peer.prepare import rehearsed
    from peer.transport import new_key_pair

    what = settings.read(experiment, overrides)
    place = Cluster(image, namespace, storage, storage_class, results_class)
    cluster.check(what, place)
    rehearsed(what)  # what would stop the pods, stops here
    if key_folder is not None:
        pairs = cluster.pairs_of(key_folder, what.peers)
    else:
        pairs = {peer: new_key_pair() for peer in range(what.peers)}
    text = cluster.manifests(what, place, pairs, key_folder)
    click.echo(text.encode(), nl=False)  # YAML is UTF-8, whatever the terminal is
    return DONE


if __name__ == "__main__":
    main()
