"""A torch.nn.Module as a function f(w; x): outputs and derivatives by torch.func, in float64, on the processor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from peer.arrays import Layout, Matrix, Vector
from peer.optim.factors import Tensor
from peer.optim.layers import IN_NONE

Module: TypeAlias = Any
"""torch.nn.Module: torch has no types where it is not installed."""

Tensors: TypeAlias = dict[str, Any]
"""torch.Tensor by the name of the parameter."""

ROWS: Final = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
"""Modules of which the first axis of weight and bias numbers neurons."""

NORMS: Final = (torch.nn.modules.batchnorm._NormBase,)
RANDOM: Final = (torch.nn.modules.dropout._DropoutNd,)
LOOKED_UP: Final = (torch.nn.Embedding, torch.nn.EmbeddingBag)

FUSED: Final = (
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
)
"""Attention in one piece, on the processor too, which has no derivatives forwards: whether, and whether from now on."""

TURN: Final = threading.RLock()
"""Of those who call modules: what is put in place meanwhile, all threads see."""


def is_module(made: object) -> bool:
    """Whether this is a torch.nn.Module."""
    return isinstance(made, torch.nn.Module)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, what torch draws follows from the seed; behind it all is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def alone() -> None:
    """One thread: peers share the processors. And attention by its formula, which has all derivatives."""
    torch.set_num_threads(1)
    for _, use in FUSED:
        use(False)


@contextmanager
def turn() -> Iterator[None]:
    """Within, one thread alone calls modules, with attention by its formula; behind it all is as it was."""
    with TURN:
        before = [is_used() for is_used, _ in FUSED]
        try:
            for _, use in FUSED:
                use(False)
            yield
        finally:
            for (_, use), was in zip(FUSED, before, strict=True):
                use(was)


def warm() -> None:
    """Have imported what derivatives need, so that processes that are forked from this one share it.

    A derivative forwards, for one backwards might start threads, which a forked process would not have.
    """
    alone()
    jvp(lambda x: 2.0 * x, (torch.zeros(1),), (torch.zeros(1),))


def refusal_of(module: Module) -> str:
    """Why a module cannot be trained by peers, as far as its parts tell; empty: nothing is known against it."""
    for name, part in module.named_modules():
        known = f"found {type(part).__name__} at {name!r}"
        if isinstance(part, NORMS) and (part.track_running_stats or "Batch" in type(part).__name__):
            return (
                "expected modules in which samples do not meet, as g_i is a sum over samples and peers agree on "
                f"parameters only, not on statistics of batches (LayerNorm and GroupNorm have none); {known}"
            )
        if isinstance(part, RANDOM) and part.p > 0.0:
            return f"expected a function, which draws nothing at random (a dropout's p may be 0); {known}, p = {part.p}"
        if isinstance(part, LOOKED_UP) and part.padding_idx is not None and part.weight.requires_grad:
            return (
                "expected an embedding without padding_idx, which drops the gradient of a row that outputs depend on "
                f"(multiply by a mask of zeros and ones instead); {known}, padding_idx = {part.padding_idx}"
            )
    places = {str(part.device) for part in (*module.parameters(), *module.buffers())} - {"cpu"}
    if places:
        return f"expected parameters in the processor's memory, found some on {', '.join(sorted(places))}"
    if not any(part.requires_grad for part in module.parameters()):
        return "expected a module with parameters that require gradients, found none"
    lazy = next((name for name, part in module.named_parameters() if torch.nn.parameter.is_lazy(part)), None)
    if lazy is not None:
        return f"expected parameters whose shapes are known, found {lazy!r} without one (call the module once)"
    strange = next((name for name, part in _learning(module) if not part.is_floating_point()), None)
    return f"expected real parameters, found others in {strange!r}" if strange is not None else ""


@final
@dataclass(frozen=True, eq=False)
class TorchFunction:
    """f(w; x) of a module; w are its parameters that require gradients, all others stay as they are.

    Parameters
    ----------
    module : torch.nn.Module
        In float64.
    layout : Layout
        Names and shapes of the parameters.
    """

    module: Module
    layout: Layout

    @classmethod
    def of(cls, module: Module) -> TorchFunction:
        """The function of a module, which is made float64; what is complex in it stays complex."""
        module._apply(_wide)  # as `to` does, which would drop imaginary parts
        shapes = tuple((name, tuple(part.shape)) for name, part in _learning(module))
        return cls(module, Layout(shapes))

    def start(self) -> Vector:
        """Its parameters as they are, (p,)."""
        parts = [part.detach().numpy().reshape(-1) for _, part in _learning(self.module)]
        return np.concatenate([np.zeros(0), *parts])

    def neurons(self) -> NDArray[np.intp]:
        """Into which neuron each parameter of a linear or convolutional module leads, else `IN_NONE`; (p,)."""
        rows: dict[int, Any] = {}
        n_before = 0
        for module in self.module.modules():
            if isinstance(module, ROWS):
                numbers = np.arange(n_before, n_before + len(module.weight))
                n_before += len(numbers)
                for part in (module.weight, module.bias):
                    if part is not None:
                        rows.setdefault(id(part), np.repeat(numbers, part.numel() // len(numbers)))
        nothing = {id(part): np.full(part.numel(), IN_NONE) for _, part in _learning(self.module)}
        return np.concatenate([rows.get(key, none) for key, none in nothing.items()]).astype(np.intp)

    def at(self, w: Vector, x: Tensor) -> TorchLocal:
        """The function at w, (p,), with inputs (m, ...)."""
        inputs, parts = _tensor(x), self.parts(w)
        with turn():
            outputs, pull = vjp(lambda parts: self.call(parts, inputs), parts)
        return TorchLocal(self, parts, inputs, _numbers(outputs), pull)

    def call(self, parts: Tensors, inputs: Any) -> Any:  # noqa: ANN401  (a tensor)
        """Outputs with these parameters, (m, q), to be called in `turn`: they are put in the place of the module's.

        Raises
        ------
        TypeError
            The module gives something else than a float64 tensor.
        """
        outputs = functional_call(self.module, parts, (inputs,))
        if not isinstance(outputs, torch.Tensor) or outputs.dtype != torch.float64:
            found = outputs.dtype if isinstance(outputs, torch.Tensor) else type(outputs).__name__
            raise TypeError(f"expected a float64 tensor of outputs, found {found}")
        return outputs

    def parts(self, v: Vector) -> Tensors:
        """Tensors of a vector, (p,), by name."""
        whole = _tensor(v)
        return {name: whole[place].reshape(shape) for name, shape, place in self.layout.slices()}

    def flat(self, parts: Mapping[str, Any]) -> Vector:
        """The vector of tensors by name, (p,)."""
        return np.concatenate([np.zeros(0), *(_numbers(parts[name]).reshape(-1) for name, _ in self.layout.shapes)])

    def refusal(self, w: Vector, x: Tensor) -> str:
        """Whether in training it computes something else than in evaluation, or changes what it is made of."""
        inputs, outputs = _tensor(x), []
        parts = {name: part.clone() for name, part in self.parts(w).items()}  # each with a count of writes of its own
        places = {name: (part.data_ptr(), part._version) for name, part in parts.items()}
        before = {name: part.clone() for name, part in self._others()} | self.parts(w)
        with turn(), torch.no_grad():
            for training in (False, True, True):
                self.module.train(training)
                outputs.append(self.call(parts, inputs))
        changed = [name for name, part in (*self._others(), *parts.items()) if not _is_same(part, before[name])]
        changed += [name for name, part in parts.items() if (part.data_ptr(), part._version) != places[name]]
        if changed:
            kind = "buffer" if changed[0] in dict(self.module.named_buffers()) else "parameter"
            return (
                "expected a function of parameters and inputs, as peers agree on parameters only; "
                f"found the {kind} {changed[0]!r}, which changes when it is called"
            )
        if not all(torch.allclose(outputs[0], other, rtol=1e-9, atol=1e-9, equal_nan=True) for other in outputs[1:]):
            return "expected the same function in training and evaluation, without chance; found different outputs"
        return ""

    def _others(self) -> list[tuple[str, Any]]:
        """Buffers, and parameters that require no gradients, by name."""
        fixed = [(name, part) for name, part in self.module.named_parameters() if not part.requires_grad]
        return [*self.module.named_buffers(), *fixed]

    def loaded(self, w: Vector) -> Module:
        """The module with these parameters, (p,), ready to be evaluated."""
        with torch.no_grad():
            for (_, part), value in zip(_learning(self.module), self.parts(w).values(), strict=True):
                part.copy_(value)
        return self.module.eval()


@final
@dataclass(frozen=True, eq=False)
class TorchLocal:
    """`TorchFunction` at a point.

    Parameters
    ----------
    function : TorchFunction
    parts : dict
        Parameters by name.
    inputs : torch.Tensor
        (m, ...).
    outputs : Matrix
        f(w; x), (m, q).
    pull : callable
        The adjoint, by the graph of this evaluation.
    """

    function: TorchFunction
    parts: Tensors
    inputs: Any
    outputs: Matrix
    pull: Callable[[Any], tuple[Tensors]]

    def jvp(self, v: Vector) -> Matrix:
        """J v, (m, q), of v, (p,)."""
        function = self.function
        with turn():
            _, tangent = jvp(lambda parts: function.call(parts, self.inputs), (self.parts,), (function.parts(v),))
        return _numbers(tangent)

    def vjp(self, u: Matrix) -> Vector:
        """J'u, (p,), of u, (m, q)."""
        return self.function.flat(self.pull(_tensor(u))[0])

    def jacobian(self, rows: slice) -> Tensor:
        """J of these samples, (rows, q, p)."""
        function, inputs = self.function, self.inputs[rows]

        def single(parts: Tensors, sample: Any) -> Any:  # noqa: ANN401  (tensors)
            return function.call(parts, sample[None])[0]

        with turn():
            try:
                columns = vmap(jacrev(single), in_dims=(None, 0))(self.parts, inputs)
            except RuntimeError:  # some modules, recurrent ones, cannot be vectorized
                return np.stack([self._of_one(sample) for sample in inputs])
        shape = *self.outputs[rows].shape, -1
        return np.concatenate([_numbers(columns[name]).reshape(shape) for name, _ in function.layout.shapes], axis=2)

    def _of_one(self, sample: Any) -> Matrix:  # noqa: ANN401  (a tensor)
        """J of one sample, (q, p), row by row."""
        outputs, pull = vjp(lambda parts: self.function.call(parts, sample[None]), self.parts)
        axes = torch.eye(outputs.shape[1], dtype=torch.float64)[:, None, :]
        return np.stack([self.function.flat(pull(axis)[0]) for axis in axes])


def _learning(module: Module) -> list[tuple[str, Any]]:
    return [(name, part) for name, part in module.named_parameters() if part.requires_grad]


def _is_same(one: Any, other: Any) -> bool:  # noqa: ANN401  (tensors)
    """Whether all entries are equal, or nan in both."""
    if one.shape != other.shape:
        return False
    return bool(torch.equal(one, other) or ((one == other) | (one.isnan() & other.isnan())).all())


def _wide(part: Any) -> Any:  # noqa: ANN401  (tensors)
    """A part of a module with 64 bits a number; whole numbers and truth values as they are."""
    if part.is_complex():
        return part.to(torch.complex128)
    return part.to(torch.float64) if part.is_floating_point() else part


def _tensor(array: NDArray[np.float64]) -> Any:  # noqa: ANN401  (a tensor)
    """The numbers as a tensor, in the same memory where they may be written to."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _numbers(tensor: Any) -> NDArray[np.float64]:  # noqa: ANN401  (a tensor)
    return np.asarray(tensor.detach().contiguous().numpy())
