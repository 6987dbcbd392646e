"""One process of peers, mostly of one: the only event loop, its signals, and what ends a peer with which exit code.

Policy: what a stranger or a neighbor sends wrongly is dropped, counted, and journaled once
(`peer.host`); what the host refuses, a full disk, memory, descriptors, ends the peer with a line that says
so, and its neighbors are told; who is waited for, and for how long, is a matter of the life that the peer leads:
`peer.rounds_mode`, `peer.async_mode`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import numpy as np

from peer import endpoint, openmetrics
from peer.async_mode import AsyncLife
from peer.door import LINK_DESCRIPTORS, OWN_DESCRIPTORS, check_descriptors
from peer.errors import (
    BAD_INPUT,
    BROKEN,
    DONE,
    INTERRUPTED,
    LOST,
    ConfigError,
    DisagreementError,
    NeighborLeft,
    NeighborsLate,
    PeerError,
    SolveError,
    is_refusal,
    refusal,
)
from peer.host import Assignment, Company, Host
from peer.rounds_mode import RoundsLife
from peer.threads import MATHEMATICS, Pools
from peer.transport import Hub
from topology import PeerId

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
"""What interrupts a peer: it writes a checkpoint and ends."""

AGENT_DESCRIPTORS: Final = 13
"""That an agent needs which has others in its process: 9 were counted, and one or two files that are being replaced."""

CODES: Final[Mapping[type[PeerError], int]] = {
    ConfigError: BAD_INPUT,
    DisagreementError: BAD_INPUT,
    NeighborsLate: LOST,
    NeighborLeft: LOST,
    SolveError: BROKEN,
}
"""Exit code of each error that ends a peer."""


def run(assignment: Assignment) -> tuple[int, str]:
    """Run a peer to its end.

    Returns
    -------
    int
        Exit code.
    str
        One line on what went wrong; empty if nothing did.
    """
    union = assignment.ground.union
    n_links = len(union[assignment.me]) if assignment.me < len(union) else len(union)
    needed, pair = OWN_DESCRIPTORS + LINK_DESCRIPTORS * n_links, 2 * (OWN_DESCRIPTORS + LINK_DESCRIPTORS)
    try:
        if assignment.facts is None or needed > pair:  # `launch`, which found these, has seen to those of a pair
            check_descriptors(needed, f"a peer with {n_links} neighbors")
    except ConfigError as error:
        return BAD_INPUT, str(error)
    return asyncio.run(_run(assignment))


def rehearse(assignments: Sequence[Assignment], limit_s: float) -> None:
    """Run peers in this process, to their end or for a while; nobody is told how they got on."""

    async def all_of_them() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(limit_s, stop.set)
        await asyncio.gather(*(_live(assignment, stop) for assignment in assignments))

    asyncio.run(all_of_them())
    for thread in threading.enumerate():  # the caller may fork: none of them must be left
        if thread.name.startswith(MATHEMATICS):
            thread.join()


def run_together(assignments: Sequence[Assignment], said: Callable[[PeerId, int, str], None]) -> None:
    """Run several agents in this process, each to its end, which ends no other.

    They have one event loop, one ZeroMQ context, and no more threads to compute on than there are cores.

    Parameters
    ----------
    assignments : sequence of Assignment
        With one lifeline, and of none that stays.
    said : callable
        Called with an agent that has ended, its exit code, and one line on what went wrong.
    """
    union, here = assignments[0].ground.union, {assignment.me for assignment in assignments}
    n_links = sum(len(set(union[me]) - here) for me in here)
    needed = OWN_DESCRIPTORS + AGENT_DESCRIPTORS * len(here) + LINK_DESCRIPTORS * n_links
    try:
        check_descriptors(needed, f"{len(here)} agents with {n_links} neighbors in other processes")
    except ConfigError as error:
        for me in here:
            said(me, BAD_INPUT, str(error))
        return
    asyncio.run(_run_together(assignments, said))


async def _run_together(assignments: Sequence[Assignment], said: Callable[[PeerId, int, str], None]) -> None:
    here, union = [assignment.me for assignment in assignments], assignments[0].ground.union
    takes_turns = bool(assignments[0].experiment.model.python)  # one module of PyTorch is all theirs, and holds no two
    company = Company(Hub(here, sum(len(union[me]) for me in here)), Pools.of_several(len(here), takes_turns))

    async def one(assignment: Assignment, stop: asyncio.Event) -> None:
        code, line = 1, ""
        try:
            code, line, _ = await _live(assignment, stop, company)
        except Exception as error:
            line = bug(error)
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            company.hub.room.leave(assignment.me)
            said(assignment.me, code, line)

    with _told_to_stop(assignments[0].lifeline) as stop:
        await asyncio.gather(*(one(assignment, stop) for assignment in assignments))
        await company.close()


def bug(error: BaseException) -> str:
    """What cannot happen, in one line."""
    return f"a bug of this program: {error!r}"


@contextmanager
def _told_to_stop(lifeline: int | None) -> Iterator[asyncio.Event]:
    """An event that says that this process has to come to its end."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        loop.add_reader(lifeline, _once, loop, lifeline, stop.set)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield stop
    finally:  # the loop closes the descriptor that signals are written to before it lets go of them
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


async def _run(assignment: Assignment) -> tuple[int, str]:
    """The life of a peer; of one that stays, one life after the other, as long as somebody may need it."""
    with _told_to_stop(assignment.lifeline) as stop:
        while True:
            code, line, absent = await _live(assignment, stop)
            if not assignment.stay or code != DONE or stop.is_set():
                return code, line
            if not absent:
                await stop.wait()
                return code, line
            assignment = replace(assignment, resume=True)


async def _live(
    assignment: Assignment, stop: asyncio.Event, company: Company | None = None
) -> tuple[int, str, Sequence[PeerId]]:
    """Exit code and line of one run of a peer, and who may need it still."""
    host: Host | None = None
    server: asyncio.Server | None = None
    try:
        host = Host(assignment, company)
        if company is not None:
            await asyncio.get_running_loop().run_in_executor(company.pools.disk, host.claim)
        if assignment.page is not None:
            server = await endpoint.serve(
                assignment.page, host.tally.text, openmetrics.CONTENT_TYPE, "metrics.openmetrics"
            )
        peer = AsyncLife(host) if assignment.experiment.run.mode == "async" else RoundsLife(host)
    except Exception as error:
        if host is not None:
            host.abandon()
        if server is not None:
            server.close()
        if not isinstance(error, ConfigError) and not is_refusal(error):
            raise
        return BAD_INPUT, str(error) if isinstance(error, ConfigError) else refusal(error), ()
    with np.errstate(all="ignore"):  # what overflows ends in nan or infinity, and is found there; tasks inherit it
        work, told = asyncio.ensure_future(peer.work()), asyncio.ensure_future(stop.wait())
    told.add_done_callback(lambda _: work.cancel())
    code, line, offender = 1, "", None
    try:
        await work
        code = DONE
    except asyncio.CancelledError:
        code, line = INTERRUPTED, "interrupted"
    except PeerError as error:
        code, line = next(code for kind, code in CODES.items() if isinstance(error, kind)), str(error)
        offender = error.sender if isinstance(error, DisagreementError) else None
    except BaseException as error:
        if not is_refusal(error):
            line = bug(error)
            raise
        code, line = BAD_INPUT, refusal(error)
    finally:
        told.cancel()
        try:
            await peer.end(code, line, offender)
        except (OSError, MemoryError) as error:  # it could not even say how it ended
            if code in (DONE, INTERRUPTED):
                code, line = BAD_INPUT, refusal(error)
        if server is not None:
            server.close()
        await host.close()
    return code, line, peer.absent


def _once(loop: asyncio.AbstractEventLoop, descriptor: int, function: Callable[[], object]) -> None:
    """Call a function when a descriptor is readable, and not again: one that was closed stays readable."""
    loop.remove_reader(descriptor)
    function()
