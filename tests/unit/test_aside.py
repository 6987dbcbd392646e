"""A child process that computes something: its result, its error, or how it ended."""

from __future__ import annotations

import os
import resource
import signal

import pytest

from peer.aside import aside
from peer.errors import ConfigError


def add(a: int, *, b: int) -> int:
    return a + b


def refuse(kind: type[Exception], *arguments: object) -> None:
    raise kind(*arguments)


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def leave(code: int) -> None:
    os._exit(code)


class Stubborn(Exception):  # noqa: N818
    """One that cannot be made again from its text."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def test_a_result_of_any_size_comes_back() -> None:
    assert aside(add, 2, b=3) == 5
    assert aside(bytes, 10_000_000) == bytes(10_000_000)  # far more than a pipe holds


def test_it_is_another_process_of_which_nothing_stays() -> None:
    before = set(os.listdir("/dev/fd"))  # noqa: PTH208
    assert aside(os.getpid) != os.getpid()
    assert set(os.listdir("/dev/fd")) == before  # noqa: PTH208
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize(
    "error",
    [ConfigError("step.alpha", "expected less"), OSError(28, "No space left on device", "a/b"), MemoryError("9 GB")],
    ids=repr,
)
def test_an_error_comes_back_as_it_was(error: Exception) -> None:
    given = (28, "No space left on device", "a/b") if isinstance(error, OSError) else error.args
    with pytest.raises(type(error)) as caught:
        aside(refuse, type(error), *given)
    assert str(caught.value) == str(error)
    assert not hasattr(caught.value, "__notes__")


def test_a_bug_says_where_it_is() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        aside(divmod, 1, 0)
    with pytest.raises(KeyError) as named:
        aside(refuse, KeyError, "x")
    assert "Traceback" in caught.value.__notes__[0]
    assert "in refuse" in named.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "argument", "how"),
    [(die, signal.SIGKILL, "die was ended by SIGKILL"), (leave, 3, "leave was ended by exit code 3")],
)
def test_a_child_that_ends_without_a_word_is_no_hang(function: object, argument: int, how: str) -> None:
    with pytest.raises(ChildProcessError, match=how):
        aside(function, argument)  # type: ignore[arg-type]


def test_an_error_that_cannot_be_told_is_an_error_still() -> None:
    with pytest.raises(TypeError):
        aside(refuse, Stubborn, 1, 2)


def test_where_no_descriptor_is_left_that_is_said() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            aside(add, 2, b=3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
