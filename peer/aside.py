"""Computing something in a short-lived child process, where whatever it imports stays."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

from peer.errors import PeerError

P = ParamSpec("P")
T = TypeVar("T")


def aside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Result of a function that is called in a short-lived child process.

    What it imports (scikit-learn) never weighs on this process, or on the peers that are forked from
    it. To be called before any thread or ZeroMQ context exists. It takes a pipe, and no thread or
    semaphore: where the host refuses something, that is raised, and nobody waits for anybody.

    Raises
    ------
    OSError
        No child could be started, or it was ended from outside.
    """
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    if pid == 0:
        os.close(reader)
        _answer(writer, lambda: function(*args, **kwargs))
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read()
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
    if not said:
        code = os.waitstatus_to_exitcode(status)
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        raise ChildProcessError(errno.ECHILD, f"the child process for {function.__name__} was ended by {how}")
    worked, value = pickle.loads(said)
    if not worked:
        raise value
    return value  # type: ignore[no-any-return]


def _answer(writer: int, function: Callable[[], object]) -> NoReturn:
    """The life of the child: whether the function worked, and its result or its error, go into the pipe."""
    try:
        try:
            said = pickle.dumps((True, function()))
        except Exception as error:
            if not isinstance(error, PeerError | OSError | MemoryError):  # a bug: the parent shows where it is
                error.add_note("".join(traceback.format_exception(error)))
            said = pickle.dumps((False, error))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(said)
        os._exit(0)
    except BrokenPipeError:  # nobody is there any more to be told
        pass
    except Exception:  # an error that cannot be told to the parent
        traceback.print_exc()
    finally:
        os._exit(1)
