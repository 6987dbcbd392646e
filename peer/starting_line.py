"""The starting line of a launch: nobody computes before all have met their neighbors.

Who began before would take the processors from those that have yet to come. Nobody counts: every peer holds one end of
a pipe until it is in line, or gone, and all see the other end close when nobody is left that holds it.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from io import FileIO
from typing import final


@final
class StartingLine:
    """What one peer has of it.

    Parameters
    ----------
    seen, held : int
        Descriptors of both ends of a pipe, of which it makes its own copies.
    """

    def __init__(self, seen: int, held: int) -> None:
        self._seen, self._held = FileIO(os.dup(seen)), FileIO(os.dup(held), "wb")

    async def wait(self, limit_s: float) -> None:
        """Be in line, until all are that are not gone, or a limit has passed."""
        loop, all_there = asyncio.get_running_loop(), asyncio.Event()
        self._held.close()
        loop.add_reader(self._seen, all_there.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await all_there.wait()
        finally:
            loop.remove_reader(self._seen)
            self.leave()

    def leave(self) -> None:
        """Nobody need wait for this peer."""
        self._held.close()
        self._seen.close()
