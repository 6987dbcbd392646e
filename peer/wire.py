"""Messages to frames and back: one msgpack header, then raw little-endian tensors.

A share is `[header][y][z]`, or one of the two; a flow is `[header][v][sums]`; the other messages
are a header alone. Tensors are not copied, neither out nor in: what `decode` returns looks into
the received frames. Nothing here knows the network; whose connection the frames came over, the
transport checks. Whether a share's tensors are finite is seen where they are mixed, by one look
at the sum: `peer.agent`. Those of a flow are looked at here: what was absorbed once stays in all
that comes after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from reprlib import repr as shown
from typing import Any, Final, TypeAlias, TypeVar, cast, final

import msgpack
import numpy as np

from peer.arrays import DTYPES, Vector
from peer.errors import WireError
from peer.messages import PROTOCOL, Bye, Flow, Hello, Message, Part, Share, Standing, View

Frame: TypeAlias = bytes | memoryview

K = TypeVar("K")
V = TypeVar("V")

HEADER_BYTES: Final = 1 << 17
"""Of a header, beside what it says of each peer: a Hello with MAX_HELD pieces and long settings fits."""

HEADER_BYTES_A_PEER: Final = 256
"""Of a header, for what it says of each peer: a standing with its address, or a sample count."""

MAX_HEADER_BYTES: Final = 1 << 20
"""Of any header: a Hello that lists a sample count for each of 50,000 peers fits. What a byte can become when it is
read, an object of 64, bounds what a header can cost for a moment."""

MAX_REASON: Final = 500
"""Characters of a Bye's reason: one line for a user."""

MAX_SETTING: Final = 10_000
"""Characters of a setting's value: the widths of many layers fit."""

MAX_ROUND: Final = 2**53
"""Rounds that every JSON reader can count."""

MAX_INCARNATION: Final = 2**31
"""Starts of one peer: one a second for 68 years."""

MAX_HELD: Final = 4096
"""Pieces that a peer can hold of one neighbor: two a round of the largest catch-up, see `peer.rounds`."""

MAX_SAMPLES: Final = 2**53
"""Samples of one peer that a float64 can count."""

MAX_CLASSES: Final = 2**20
"""Classes of a data set; a larger label is a mistake in the file."""

MAX_ADDRESS: Final = 300
"""Characters of an address: a name of 253, as long as the domain name system has them, and a port."""

MAX_FLOW: Final = 1e150
"""Entries of a flow: sums, differences and products of two of them are finite, so that no neighbor makes infinity."""

SUMS_DTYPE: Final = "f8"
"""Of running sums: they grow with the run while their differences count, so that no digit can be spared."""

N_SCALARS: Final = 2
"""Running sums beside those of the gradient mass: of the objective's mass and of the weight."""

PARTS: Final[tuple[Part, ...]] = ("y", "z")


@final
@dataclass(frozen=True)
class Format:
    """What all messages of a run have in common; anything else is refused.

    Parameters
    ----------
    run : str
        Name of the run.
    n_agents : int
        Number of peers I.
    n_parameters : int
        p; 0 while it is not known, when no share can be decoded.
    dtype : str
        Tensor format on the wire, f8 or f4.
    """

    run: str
    n_agents: int
    n_parameters: int
    dtype: str

    @property
    def max_header_bytes(self) -> int:
        """Size of the largest header that can be valid."""
        return min(MAX_HEADER_BYTES, HEADER_BYTES + HEADER_BYTES_A_PEER * self.n_agents)

    @property
    def max_frame_bytes(self) -> int:
        """Size of the largest frame that can be valid."""
        return max(self.max_header_bytes, self.n_parameters * DTYPES[self.dtype].itemsize)

    @property
    def max_flow_bytes(self) -> int:
        """Size of the largest frame that can be valid in a run without rounds."""
        return max(self.max_frame_bytes, (self.n_parameters + N_SCALARS) * DTYPES[SUMS_DTYPE].itemsize)


def encode(message: Message, form: Format) -> list[Frame]:
    """Frames of a message; the tensors' frames are views of its arrays, which must not change any more."""
    header: dict[str, Any] = {"v": PROTOCOL, "run": form.run, "from": message.sender}
    if isinstance(message, Share):
        tensors = {part: vector for part in PARTS if (vector := getattr(message, part)) is not None}
        header |= {"kind": "share", "n": message.n, "floor": message.floor, "objective": message.objective}
        header |= {"dtype": form.dtype, "parts": list(tensors)}
        return [msgpack.packb(header), *(_raw(vector, form.dtype) for vector in tensors.values())]
    if isinstance(message, Flow):
        header |= {"kind": "flow", "epoch": message.epoch, "stamp": message.stamp, "dtype": form.dtype}
        return [msgpack.packb(header), _raw(message.v, form.dtype), _raw(message.sums, SUMS_DTYPE)]
    if isinstance(message, View):
        standings = {j: list(vars(standing).values()) for j, standing in message.standings.items()}  # astuple copies
        header |= {"kind": "view", "settings": dict(message.settings), "n_classes": message.n_classes}
        return [msgpack.packb(header | {"standings": standings})]
    if isinstance(message, Bye):
        reason = "".join(letter if letter.isprintable() else " " for letter in message.reason[:MAX_REASON])
        header |= {"kind": "bye", "reason": reason}
    else:
        header |= {"kind": "hello", "instance": message.instance, "purpose": message.purpose}
        header |= {
            "incarnation": message.incarnation,
            "n": message.n,
            "held": message.held,
            "settings": dict(message.settings),
        }
        header |= {"n_samples": dict(message.n_samples), "n_classes": message.n_classes}
    return [msgpack.packb(header)]


def share_bytes(form: Format) -> int:
    """Bytes of a whole share in one piece, about: header and two tensors."""
    header = encode(Share(form.n_agents, 1_000, 1_000, 0.5, None, None), form)[0]
    return len(header) + 2 * len(PARTS) + 2 * form.n_parameters * DTYPES[form.dtype].itemsize


def flow_bytes(form: Format) -> int:
    """Bytes of a flow, about: header, v and the sums."""
    v, sums = np.zeros(form.n_parameters), np.zeros(form.n_parameters + N_SCALARS)
    return sum(map(len, encode(Flow(form.n_agents, 2**62, (1, 1_000), v, sums), form)))


def _raw(vector: Vector, dtype: str) -> memoryview:
    return np.ascontiguousarray(vector, dtype=DTYPES[dtype]).data.cast("B")


def decode(frames: Sequence[Frame], form: Format) -> Message:
    """Message of some frames, every field checked.

    Parameters
    ----------
    frames : sequence of bytes or memoryview
        As they came, without the envelope.
    form : Format
        What a valid message of this run looks like.

    Returns
    -------
    Message
        Its tensors are read-only views of the frames where the wire carries float64.

    Raises
    ------
    WireError
        Anything that is no valid message; names the cause.
    """
    if not frames or len(frames[0]) > form.max_header_bytes:
        raise WireError("size", f"expected a header of up to {form.max_header_bytes} bytes")
    try:
        header = msgpack.unpackb(frames[0], strict_map_key=False)
    except Exception as error:  # msgpack documents no common base of what it raises on malformed bytes
        raise WireError("header", "expected a msgpack header") from error
    fields = _Fields(header)
    version, run = fields.integer("v", 0, 2**31), fields.text("run", 200)
    if version != PROTOCOL:
        raise WireError("version", f"expected protocol version {PROTOCOL}, found {version}")
    if run != form.run:
        raise WireError("run", f"expected run {form.run!r}, found {run!r}")
    sender = fields.integer("from", 0, form.n_agents)
    kind = fields.choice("kind", ("share", "flow", "hello", "view", "bye"))
    if kind == "share":
        return _share(fields, sender, frames[1:], form)
    if kind == "flow":
        return _flow(fields, sender, frames[1:], form)
    if len(frames) != 1:
        raise WireError("frames", f"expected no tensors after a {kind}, found {len(frames) - 1}", sender)
    if kind == "bye":
        return Bye(sender, fields.text("reason", MAX_REASON))
    return _view(fields, sender, form) if kind == "view" else _hello(fields, sender, form)


def _share(fields: _Fields, sender: int, tensors: Sequence[Frame], form: Format) -> Share:
    n, floor = fields.integer("n", 0, MAX_ROUND), fields.integer("floor", 0, MAX_ROUND)
    objective = fields.values.get("objective")
    if not isinstance(objective, float) or not np.isfinite(objective):
        raise WireError("nonfinite", "objective: expected a finite number", sender, n)
    fields.dtype(form, sender, n)
    parts = fields.values.get("parts")
    if parts not in (["y"], ["z"], ["y", "z"]) or len(tensors) != len(parts):
        raise WireError("frames", f"expected a tensor for each of {shown(parts)}, found {len(tensors)}", sender, n)
    p = form.n_parameters
    vectors = {part: _tensor(tensor, p, form, sender, n) for part, tensor in zip(parts, tensors, strict=True)}
    return Share(sender, n, floor, objective, vectors.get("y"), vectors.get("z"))


def _flow(fields: _Fields, sender: int, tensors: Sequence[Frame], form: Format) -> Flow:
    epoch, stamp = fields.integer("epoch", 0, MAX_ROUND), fields.values.get("stamp")
    if not isinstance(stamp, list) or len(stamp) != 2 or not all(_is_integer(part) for part in stamp):
        raise WireError("header", "stamp: expected an incarnation and a counter", sender)
    incarnation, counter = stamp
    if not (0 <= incarnation < MAX_INCARNATION and 0 <= counter < MAX_ROUND):
        raise WireError("header", f"stamp: expected 0..{MAX_INCARNATION - 1} and 0..{MAX_ROUND - 1}", sender)
    fields.dtype(form, sender, None)
    if len(tensors) != 2:
        raise WireError("frames", f"expected two tensors, found {len(tensors)}", sender)
    v = _tensor(tensors[0], form.n_parameters, form, sender, None)
    sums = _tensor(tensors[1], form.n_parameters + N_SCALARS, replace(form, dtype=SUMS_DTYPE), sender, None)
    for vector in (v, sums):
        if not (float(vector.min()) >= -MAX_FLOW and float(vector.max()) <= MAX_FLOW):  # nan is in no interval
            raise WireError("nonfinite", f"expected numbers up to {MAX_FLOW:g}, found larger ones or nan", sender)
    return Flow(sender, epoch, (incarnation, counter), v, sums)


def _tensor(frame: Frame, size: int, form: Format, sender: int, n: int | None) -> Vector:
    dtype = DTYPES[form.dtype]
    expected = size * dtype.itemsize
    if not form.n_parameters:
        raise WireError("shape", "expected no tensor while the number of parameters is not known", sender, n)
    if len(frame) != expected:
        raise WireError("shape", f"expected a tensor of {expected} bytes, found {len(frame)}", sender, n)
    return np.frombuffer(frame, dtype=dtype).astype(np.float64, copy=False)


def _hello(fields: _Fields, sender: int, form: Format) -> Hello:
    held = fields.values.get("held")
    if not isinstance(held, list) or len(held) > MAX_HELD or not all(_is_held(item) for item in held):
        raise WireError("header", "held: expected pairs of a round and a part", sender)
    n_samples = fields.mapping("n_samples", int, int)
    if not all(0 <= peer < form.n_agents and 0 < count < MAX_SAMPLES for peer, count in n_samples.items()):
        raise WireError("header", "n_samples: expected a positive number for each peer", sender)
    return Hello(
        sender=sender,
        instance=fields.text("instance", 64),
        incarnation=fields.integer("incarnation", 0, MAX_INCARNATION),
        purpose=cast(Any, fields.choice("purpose", ("ask", "answer", "news"))),
        n=fields.integer("n", 0, MAX_ROUND),
        held=tuple((n, part) for n, part in held),
        settings=fields.settings(sender),
        n_samples=n_samples,
        n_classes=fields.integer("n_classes", 0, MAX_CLASSES),
    )


def _view(fields: _Fields, sender: int, form: Format) -> View:
    rows = fields.mapping("standings", int, list)
    standings = {j: standing for j, row in rows.items() if (standing := _standing(row)) is not None}
    if len(standings) != len(rows) or sender not in rows or not all(0 <= j < form.n_agents for j in rows):
        raise WireError("header", "standings: expected one of each peer, the sender's too", sender)
    return View(sender, fields.settings(sender), fields.integer("n_classes", 0, MAX_CLASSES), standings)


def _standing(row: list[object]) -> Standing | None:
    """A standing, every field checked; None for what is none."""
    bounds = ((1, MAX_INCARNATION), (-1, MAX_INCARNATION), (0, MAX_ROUND), None, *[(0, MAX_ROUND)] * 4, None)
    if len(row) != len(bounds):
        return None
    for value, bound in zip(row, bounds, strict=True):
        if bound is None:
            if not isinstance(value, str) or len(value) > MAX_ADDRESS or not value.isprintable():
                return None
        elif not (_is_integer(value) and bound[0] <= value < bound[1]):  # type: ignore[operator]
            return None
    return Standing(*row)  # type: ignore[arg-type]


def _is_held(item: object) -> bool:
    if not isinstance(item, list) or len(item) != 2 or not _is_integer(item[0]):
        return False
    return 0 <= item[0] < MAX_ROUND and item[1] in PARTS


def _is_line(text: str) -> bool:
    """Whether it can be shown to a user: what a peer says must not clear somebody's terminal."""
    return len(text) <= MAX_SETTING and text.isprintable()


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


@final
@dataclass(frozen=True)
class _Fields:
    """A decoded header, whose fields are taken out with their type checked."""

    values: Mapping[str, object]

    def __post_init__(self) -> None:
        if not isinstance(self.values, dict):
            raise WireError("header", "expected a msgpack map")

    def integer(self, key: str, low: int, high: int) -> int:
        """Integer in low <= value < high."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < high:
            raise WireError("header", f"{key}: expected an integer in {low}..{high - 1}")
        return value

    def text(self, key: str, longest: int) -> str:
        """Printable text of up to `longest` characters."""
        value = self.values.get(key)
        if not isinstance(value, str) or len(value) > longest or not value.isprintable():
            raise WireError("header", f"{key}: expected printable text of up to {longest} characters")
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """One of the allowed words."""
        value = self.values.get(key)
        if not isinstance(value, str) or value not in allowed:
            raise WireError("header", f"{key}: expected one of {', '.join(allowed)}")
        return value

    def dtype(self, form: Format, sender: int, n: int | None) -> None:
        """The number format is that of the run."""
        if self.values.get("dtype") != form.dtype:
            found = shown(self.values.get("dtype"))  # short, however long or deep it is
            raise WireError("dtype", f"expected tensors in {form.dtype}, found {found}", sender, n)

    def settings(self, sender: int) -> dict[str, str]:
        """Settings as text that can be shown."""
        found = self.mapping("settings", str, str)
        if not all(_is_line(key) and _is_line(value) for key, value in found.items()):
            raise WireError("header", f"settings: expected printable text of up to {MAX_SETTING} characters", sender)
        return found

    def mapping(self, key: str, keys: type[K], values: type[V]) -> dict[K, V]:
        """Map whose keys and values have just these types."""
        found = self.values.get(key)
        if not isinstance(found, dict) or not all(type(k) is keys and type(v) is values for k, v in found.items()):
            raise WireError("header", f"{key}: expected a map of {keys.__name__} to {values.__name__}")
        return found
