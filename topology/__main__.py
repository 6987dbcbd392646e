"""Command line of the package: prints, checks, draws and saves a schedule without starting a peer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, final

import click

from topology import outlets, schedules
from topology.files import write
from topology.gossip import CHEBYSHEV, CONSENSUS, round_rate
from topology.gossip import make as make_gossip
from topology.graphs import FAMILIES, TopologyError
from topology.outlets import InStep, wakings_to_connect
from topology.schedules import SCHEDULES, Schedule, make, rounds_to_show
from topology.weights import WEIGHTS, mixing_rate
from topology.weights import make as make_weights
from topology.windows import connectivity_window, union


@final
@dataclass(frozen=True)
class Asked:
    """What the common options of a command line describe.

    Parameters
    ----------
    schedule : Schedule or InStep
        In rounds; or, with --directed, who pushes to whom without rounds.
    n_rounds : int
        Length of the run; without rounds the wakings of each agent.
    title : str
        The schedule in the words of the options.
    """

    schedule: Schedule | InStep
    n_rounds: int
    title: str


MOST: Final = 100_000
"""Agents, of whom a graph is made here."""

# The defaults are those of the experiment file, with the seed of the built-in one, so that both talk of the same graph.
COMMON: Final = (
    click.option("--graph", default="erdos-renyi", show_default=True, help=f"Base graph: {', '.join(FAMILIES)}."),
    click.option("--peers", type=click.IntRange(max=MOST), default=8, show_default=True, help="Number of agents."),
    click.option("--probability", type=float, default=0.3, show_default=True, help="Of a link of erdos-renyi."),
    click.option("--radius", type=float, default=0.5, show_default=True, help="Of neighborhood in geometric."),
    click.option("--schedule", default="static", show_default=True, help=f"One of {', '.join(SCHEDULES)}."),
    click.option(
        "--link-probability",
        type=float,
        default=0.5,
        show_default=True,
        help="Of a link to be up in a round of random-links.",
    ),
    click.option("--directed", is_flag=True, help='Who pushes to whom, as without rounds (mode = "async").'),
    click.option("--file", type=click.Path(path_type=Path), help="The schedule file of --schedule file."),
    click.option("--seed", type=int, default=7, show_default=True, help="Root of everything random."),
    click.option("--rounds", type=click.IntRange(min=1), default=300, show_default=True, help="Length of the run."),
)


def describes_schedule(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options, and pass it the `Asked` that they describe."""

    @wraps(command)
    def asking(
        graph: str,
        peers: int,
        probability: float,
        radius: float,
        schedule: str,
        link_probability: float,
        directed: bool,
        file: Path | None,
        seed: int,
        rounds: int,
        **own: Any,  # noqa: ANN401  (the options of the one command)
    ) -> None:
        if file is not None and schedule != "file":
            raise TopologyError(f"--file {file}: expected together with --schedule file, found --schedule {schedule}")
        settings: dict[str, Any] = {
            "probability": probability,
            "radius": radius,
            "link_probability": link_probability,
            "path": file,
            "seed": seed,
        }
        if directed:
            made: Schedule | InStep = InStep(outlets.make(schedule, graph, peers, directed=True, **settings), peers)
        else:
            made = make(schedule, graph, peers, **settings)
        base = {"one-peer-exponential": "", "file": f" {file and file.name}"}.get(schedule, f" on {graph}")
        command(Asked(made, rounds, schedule + base + ", directed" * directed), **own)

    for option in reversed(COMMON):
        asking = option(asking)
    return asking


class OneLine(click.Group):
    """Commands that end bad input with one line on stderr and exit code 2, be it click's finding or ours."""

    def main(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as click declares it)
        """Run the command line, as `click.Group.main`."""
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.ClickException as error:
            problem = " ".join(error.format_message().split())
        except TopologyError as error:
            problem = str(error)
        except MemoryError:
            problem = "there is too little memory for so many peers"
        except OSError as error:
            problem = f"{error.filename or 'output'}: {error.strerror}"
        except click.Abort:
            sys.exit(130)
        click.echo(f"topology: {problem}", err=True)
        sys.exit(2)


@click.group(cls=OneLine, invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Print, check, draw or save a schedule: which peers are linked in which round.

    Every command takes the same options to describe the schedule and needs no running peer.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command(
    epilog="\b\n"
    "Example: three rounds in which each link of a ring is up with probability 1/2\n"
    "  python -m topology show --graph ring --schedule random-links --rounds 3\n"
)
@describes_schedule
def show(asked: Asked) -> None:
    """Print the links of every round.

    They come as JSON lines, one period if they repeat.
    """
    for line in lines(asked.schedule, asked.n_rounds):
        click.echo(line)


@main.command(
    epilog="\b\n"
    "Example: is a sparse geometric graph of 20 peers connected?\n"
    "  python -m topology check --graph geometric --peers 20 --radius 0.3\n"
)
@describes_schedule
@click.option("--weights", default="metropolis", show_default=True, help=f"One of {', '.join(WEIGHTS)}.")
@click.option(
    "--steps", type=click.IntRange(min=1), default=1, show_default=True, help="Rounds here that are one for the peers."
)
@click.option("--consensus", default="plain", show_default=True, help=f"One of {', '.join(CONSENSUS)}.")
def check(asked: Asked, weights: str, steps: int, consensus: str) -> None:
    """Check that everybody reaches everybody.

    Says how many consecutive rounds that takes, and how fast repeated averaging agrees; with --steps, how fast so many
    in a row do, see topology.consensus_steps of the experiment file. With --directed: along the arrows, and how many
    wakings of each it takes from the first one on.
    """
    schedule = asked.schedule
    if consensus == CHEBYSHEV and steps == 1:
        raise TopologyError(f"--consensus {consensus}: expected --steps 2 or more: of one there is no polynomial")
    if not isinstance(schedule, InStep):
        rows = _undirected(asked, schedule, weights, steps, consensus)
    elif (weights, steps, consensus) == ("metropolis", 1, "plain"):
        rows = _directed(asked, schedule)
    else:
        other = f"--weights {weights}" if weights != "metropolis" else f"--steps {steps} --consensus {consensus}"
        raise TopologyError(f"{other}: expected without --directed, where weights need not be symmetric")
    for name, value in rows:
        click.echo(f"{name:<19} {value}")


def _undirected(asked: Asked, schedule: Schedule, weights: str, n_steps: int, consensus: str) -> list[tuple[str, str]]:
    n_rounds = asked.n_rounds
    window = connectivity_window(schedule, n_rounds)
    chosen = make_weights(weights, schedule)
    gossip, rate = make_gossip(consensus, n_steps, schedule, chosen), mixing_rate(schedule, n_rounds, chosen)
    together = round_rate(schedule, -(-n_rounds // n_steps), chosen, gossip) if n_steps > 1 else rate
    shown = [schedule.graph(n) for n in rounds_to_show(schedule, n_rounds)]
    agents = range(schedule.n_agents)
    whole = union(schedule, n_rounds)
    rows = [
        *_heading(asked, "rounds"),
        ("links", f"{len(whole.edges)}"),
        ("degrees", _spread([whole.degree(i) for i in agents])),
    ]
    if len(shown) > 1:
        rows += [
            ("links in a round", _spread([len(graph.edges) for graph in shown])),
            ("degrees in a round", _spread([graph.degree(i) for graph in shown for i in agents])),
        ]
    return [
        *rows,
        ("window", f"{window} (rounds in a row whose links, put together, always connect everybody)"),
        ("mixing rate", f"{rate:.6f} (of disagreement, left after a round; 0 is agreement at once, 1 is never)"),
        *([(f"of {n_steps}, {consensus}", f"{together:.6f} (left after so many rounds)")] if n_steps > 1 else []),
    ]


def _directed(asked: Asked, schedule: InStep) -> list[tuple[str, str]]:
    agents = range(schedule.n_agents)
    n_wakings = wakings_to_connect(schedule.outlets, tuple(agents), asked.n_rounds)
    shown = [schedule.graph(n) for n in schedule.shown(asked.n_rounds)]
    whole = schedule.union(asked.n_rounds)
    rows = [
        *_heading(asked, "wakings"),
        ("arcs", f"{len(whole.arcs)}"),
        ("out-neighbors", _spread([len(whole.out_neighbors(i)) for i in agents])),
        ("in-neighbors", _spread([len(whole.in_neighbors(i)) for i in agents])),
    ]
    if len(shown) > 1:
        rows.append(("pushes in a waking", _spread([len(graph.out_neighbors(i)) for graph in shown for i in agents])))
    return [*rows, ("strongly connected", f"{n_wakings} (first wakings of each, whose arcs together lead everywhere)")]


def _heading(asked: Asked, unit: str) -> list[tuple[str, str]]:
    schedule, n_rounds = asked.schedule, asked.n_rounds
    seen = "" if schedule.period and schedule.period <= n_rounds else f" (looked at {n_rounds} {unit})"
    return [
        ("schedule", asked.title),
        ("agents", f"{schedule.n_agents}"),
        ("period", f"{schedule.period or 'none'}{seen}"),
    ]


@main.command(
    epilog="\b\n"
    "Example: who meets whom in the matchings of a grid\n"
    "  python -m topology draw --graph grid --peers 12 --schedule matchings --out grid.png\n"
)
@describes_schedule
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Picture: .png, .svg or .pdf.")
def draw(asked: Asked, out: Path) -> None:
    """Draw the links into a picture.

    All links of the run and, if they change, the first rounds beside them. With --directed they are
    arrows to those that are pushed to.
    """
    try:
        from topology import draw as pictures  # only here: the other commands do without matplotlib
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        raise click.ClickException("draw needs matplotlib: pip install 'next-peer[report]'") from error
    pictures.draw(asked.schedule, asked.n_rounds, out, asked.title)


@main.command(
    epilog="\b\n"
    "Example: fix 500 rounds of random links, then check what was written\n"
    "  python -m topology save --schedule random-links --rounds 500 --out links.jsonl\n"
    "  python -m topology check --schedule file --file links.jsonl\n"
)
@describes_schedule
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Schedule file to write, JSON lines.")
def save(asked: Asked, out: Path) -> None:
    """Write the links of every round to a file.

    It holds what `show` prints, and --schedule file reads it again.
    """
    write(lines(asked.schedule, asked.n_rounds), out)


def lines(schedule: Schedule | InStep, n_rounds: int) -> Iterator[str]:
    """The JSON lines of a schedule of either kind."""
    return schedule.lines(n_rounds) if isinstance(schedule, InStep) else schedules.lines(schedule, n_rounds)


def _spread(counts: list[int]) -> str:
    return f"min {min(counts)}, mean {sum(counts) / len(counts):.2f}, max {max(counts)}"


if __name__ == "__main__":
    main(prog_name="python -m topology")
