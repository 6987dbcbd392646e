"""`[model] python = "package.module:function"`: the user's function is found and called, and what it makes is a model.

It is called with the shape of an input, the number q of outputs, and, where it has a parameter of that name, `seed`;
where its other parameters all have defaults and names of their own, without the first two. It gives

1. a `Chain` of this package's layers, from as many inputs as a sample has entries,
2. a `torch.nn.Module`, from samples (m, ...) to outputs (m, q), or
3. a pair (apply, params) with apply(params, x) -> outputs (m, q) that JAX can compile, params any tree of arrays.

PyTorch and JAX are imported by the user's code alone, or by what is needed for what it has made.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeAlias

import numpy as np

from peer.arrays import Matrix
from peer.errors import ConfigError, PeerError, SolveError, is_refusal
from peer.frameworks.foreign import Foreign, told
from peer.optim.chains import Chain, Residual
from peer.optim.layers import IN_NONE

KEY: Final = "model.python"

NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""Of a function in a module."""

ACCEPTED: Final = "a Chain, a torch.nn.Module, or a pair (apply, params) for JAX"

GIVEN: Final = ("input_shape", "n_outputs")
"""What the function is called with, by position; where other parameters have no defaults, they are meant, too."""

RESERVED: Final = ("file", "allow_pickle", "metadata", "__metadata__")
"""Names that an array in a file of a network cannot have."""

RESERVED_GROUPS: Final = ("standardization.", "anchor.")
"""With what names begin that exported files have for other arrays."""

WIDE: Final = "JAX_ENABLE_X64"
"""Variable of the environment by which JAX has 64 bits a number."""

JAX_ENVIRONMENT: Final = {
    "JAX_PLATFORMS": "cpu",
    WIDE: "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
"""What JAX reads when it is imported: float64, and one thread a peer, unless the environment says otherwise."""

MOST_MODELS: Final = 4
"""That are kept: peers of one host differ in nothing that makes a model, or the run is refused."""

Own: TypeAlias = Chain | Foreign
"""A model that the user's function has made."""


@lru_cache(maxsize=MOST_MODELS)
def network(python: str, folder: str, input_shape: tuple[int, ...], n_outputs: int, seed: int) -> Own:
    """The model that the user's function makes; the same again for the same arguments.

    Parameters
    ----------
    python : str
        "package.module:function".
    folder : str
        Where the module is looked for first; empty: nowhere but where Python looks.
    input_shape : tuple of int
        Of a sample.
    n_outputs : int
        q.
    seed : int
        From which the parameters are drawn.

    Raises
    ------
    ConfigError
        No such function, it fails, or it gives nothing that is a model with q outputs.
    """
    for key, value in JAX_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    return fresh(python, folder, input_shape, n_outputs, seed, alone=True)


def fresh(
    python: str, folder: str, input_shape: tuple[int, ...], n_outputs: int, seed: int, alone: bool = False
) -> Own:
    """As `network`, made anew; not `alone`: libraries stay as they are in this process.

    Raises
    ------
    ConfigError
        As `network`.
    """
    with _wide():
        function, place = _function(python, folder)
        made = _called(python, function, place, input_shape, n_outputs, seed, alone)
    if isinstance(made, Chain):
        return _fitting(python, made, n_outputs)
    if "torch" in sys.modules:
        from peer.frameworks import torch_function

        if torch_function.is_module(made):
            refusal = torch_function.refusal_of(made)
            if refusal:
                raise ConfigError(KEY, f"{python}: {refusal}")
            torched = torch_function.TorchFunction.of(made)
            neurons, start = torched.neurons(), torched.start()
            return _named(Foreign(python, place, torched, input_shape, n_outputs, torched.layout, neurons, start))
    if isinstance(made, tuple) and len(made) == 2 and callable(made[0]):
        try:
            from peer.frameworks import jax_function
        except ImportError as error:
            raise ConfigError(KEY, f"{python}: (apply, params) needs JAX, `pip install jax`: {error}") from error
        if alone:
            jax_function.alone()
        refusal = jax_function.refusal_of(made[1])
        if refusal:
            raise ConfigError(KEY, f"{python}: {refusal}")
        jaxed = jax_function.JaxFunction.of(*made)
        neurons = np.full(jaxed.first.size, IN_NONE, dtype=np.intp)
        return _named(Foreign(python, place, jaxed, input_shape, n_outputs, jaxed.layout, neurons, jaxed.first))
    raise ConfigError(KEY, f"{python}: expected {ACCEPTED}, found {type(made).__name__}")


@contextmanager
def _wide() -> Iterator[None]:
    """Within, JAX has 64 bits a number, as peers have: in 32 it draws others, and a module may keep what it has drawn.

    Behind it all is as it was.
    """
    if "jax" in sys.modules:
        from peer.frameworks import jax_function

        with jax_function.wide():
            yield
        return
    was = os.environ.get(WIDE)
    os.environ.setdefault(WIDE, JAX_ENVIRONMENT[WIDE])  # JAX reads it while it is imported
    try:
        yield
    finally:
        if was is None:
            os.environ.pop(WIDE, None)
            if "jax" in sys.modules:
                sys.modules["jax"].config.update("jax_enable_x64", False)


def is_torch(model: object) -> bool:
    """Whether this model is a torch.nn.Module."""
    if not isinstance(model, Foreign) or "torch" not in sys.modules:
        return False
    from peer.frameworks import torch_function

    return isinstance(model.function, torch_function.TorchFunction)


def warm() -> None:
    """Import torch, to be shared by peers that are forked from this process; JAX cannot be: it has threads at once."""
    from peer.frameworks import torch_function

    torch_function.warm()


def check(model: Own, x: Matrix) -> None:
    """Try a model on some samples, (m, ...), before the run.

    Raises
    ------
    ConfigError
        It fails, or is no function of parameters and a sample.
    """
    if isinstance(model, Chain):
        return
    try:
        model.check(x)
    except SolveError as error:
        raise ConfigError(KEY, str(error)) from error
    except ValueError as error:
        raise ConfigError(KEY, f"{model.name}: {error}") from error


def _function(python: str, folder: str) -> tuple[Callable[..., Any], Path]:
    """The function of this name, and the folder in which its module, or that one's package, is."""
    if not NAME.fullmatch(python):
        raise ConfigError(KEY, f'expected "package.module:function", found {python!r}')
    name, _, attribute = python.partition(":")
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)  # for good, as for a script: it may import its neighbors later
    importlib.invalidate_caches()
    top = name.partition(".")[0]
    found, loaded = PathFinder.find_spec(top, [folder]) if folder else None, sys.modules.get(top)
    if found is not None and loaded is not None:
        before = None if loaded.__spec__ is None else loaded.__spec__.origin
        if before != found.origin:
            where = f"found {found.origin} and {before or 'another'}, which is loaded already"
            raise ConfigError(KEY, f"{python}: expected a name that no other module has, {where}")
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            where = f"in {folder}, or where Python looks" if folder else "where Python looks"
            raise ConfigError(KEY, f"{python}: expected a module {name} {where}, found none {error.name}") from error
        raise _told(python, error, Path(folder).absolute()) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ConfigError(KEY, f"{python}: expected a function {attribute} in {name}, found {_kind(function)}")
    return function, _root(module, folder)


def _root(module: ModuleType, folder: str) -> Path:
    """The folder in which a module, or the outermost package around it, was found."""
    file, spec = getattr(module, "__file__", None), module.__spec__
    if file is None or spec is None:
        return Path(folder).absolute()
    depth = spec.name.count(".") + (spec.submodule_search_locations is not None)
    return Path(file).absolute().parents[depth]


def _called(
    python: str,
    function: Callable[..., Any],
    place: Path,
    input_shape: tuple[int, ...],
    n_outputs: int,
    seed: int,
    alone: bool,
) -> object:
    """What the function gives; torch, if it is there, begins from the seed."""
    try:
        signature = inspect.signature(function)
        keywords = {"seed": seed} if "seed" in signature.parameters else {}
        arguments = (input_shape, n_outputs) if any(map(_is_ours, signature.parameters.values())) else ()
        signature.bind(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        expected = "expected a function of (input_shape, n_outputs), with seed or without, or of nothing"
        raise ConfigError(KEY, f"{python}: {expected}; found: {error}") from error
    while True:
        had_torch = "torch" in sys.modules
        try:
            with _torch_seeded(seed, alone):
                made = function(*arguments, **keywords)
        except (Exception, SystemExit) as error:
            given = f"called with input_shape {input_shape}, n_outputs {n_outputs}" if arguments else "called"
            raise _told(f"{python}, {given}", error, place) from error
        if had_torch or "torch" not in sys.modules:  # else it has imported torch itself, and drawn without the seed
            return made


def _is_ours(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is there for the shape or the outputs: by its name, or as it has no default."""
    if parameter.name in ("seed", *GIVEN) or parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return parameter.name in GIVEN
    return parameter.default is inspect.Parameter.empty


def _torch_seeded(seed: int, alone: bool) -> Any:  # noqa: ANN401  (a context manager)
    if "torch" not in sys.modules:
        return nullcontext()
    from peer.frameworks import torch_function

    if alone:
        torch_function.alone()
    return torch_function.seeded(seed)


def _told(python: str, error: BaseException, place: Path) -> Exception:
    """What is raised for an error of the user's code; refusals of the host, and our own errors, as they are."""
    if isinstance(error, PeerError | MemoryError) or (isinstance(error, Exception) and is_refusal(error)):
        return error
    return ConfigError(KEY, f"{python}: {told(error, place)}")


def _fitting(python: str, chain: Chain, n_outputs: int) -> Chain:
    """The chain, whose layers fit together, and which was tried on a sample of zeros."""
    try:
        _check_widths(chain)
        if chain.n_outputs != n_outputs:
            raise ValueError(f"expected a chain with {n_outputs} outputs, found {chain.n_outputs}")
        if not chain.layout.shapes:
            raise ValueError("expected layers with parameters, found none")
        w = chain.initial(np.random.default_rng(0))
        here = chain.at(w, np.zeros((1, chain.n_inputs)))
        here.vjp(here.jvp(w))
    except Exception as error:
        problem = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ConfigError(KEY, f"{python}: {problem}") from error
    return chain


def _check_widths(chain: Chain) -> None:
    """See to it that each layer has as many inputs as the one before has outputs; ValueError names the first."""
    if not chain.layers:
        raise ValueError("expected at least one layer, found none")
    for layer in chain.layers:
        if isinstance(layer, Residual):
            _check_widths(layer.chain)
            if layer.chain.n_outputs != layer.n_inputs:
                widths = f"{layer.n_inputs} and {layer.chain.n_outputs}"
                raise ValueError(f"expected a Residual of a chain with as many outputs as inputs, found {widths}")
    for before, layer in pairwise(chain.layers):
        if before.n_outputs != layer.n_inputs:
            after = f"after {type(before).__name__} with {before.n_outputs} outputs"
            raise ValueError(f"expected as many inputs {after}, found {type(layer).__name__} with {layer.n_inputs}")


def _named(model: Foreign) -> Foreign:
    names = [name for name, _ in model.layout.shapes]
    taken = {name for name in names if name in RESERVED or name.startswith(RESERVED_GROUPS)}
    bad = next((name for name in names if name in taken or not name.isprintable()), None)
    if bad is not None:
        raise ConfigError(
            KEY, f"{model.name}: expected another name for the parameters {bad!r}: files have it for others"
        )
    return model


def _kind(found: object) -> str:
    return "none" if found is None else type(found).__name__
