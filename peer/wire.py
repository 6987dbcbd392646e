"""Messages to frames and back: one msgpack header, then raw little-endian tensors.

A share is `[header][y][z]`, or one of the two; a flow is `[header][v][sums]`; the other messages
are a header alone. Tensors are not copied, neither out nor in: what `decode` returns looks into
the received frames. Nothing here knows the network; whose connection the frames came over, the
transport checks. Whether a share's tensors are finite is seen where they are mixed, by one look
at the sum: `peer.agent`. Those of a flow are looked at here: what was absorbed once stays in all
that comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from reprlib import repr as shown
from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar, cast, final

import msgpack
import msgspec
import numpy as np
from msgspec import structs

from peer.arrays import DTYPES, Sparse, Tensor, Vector, packed, unpacked
from peer.errors import WireError
from peer.messages import (
    MAX_INCARNATION,
    NOTHING_FORGOTTEN,
    PARTS,
    PROTOCOL,
    Bye,
    Flow,
    Hello,
    Message,
    Part,
    Share,
    Standing,
    View,
)
from peer.optim.compressors import n_kept
from topology import PeerId

Frame: TypeAlias = bytes | memoryview

T = TypeVar("T")

HEADER_BYTES: Final = 1 << 17
"""Of a header, beside what it says of each peer: a Hello with MAX_HELD pieces and long settings fits."""

HEADER_BYTES_A_PEER: Final = 256
"""Of a header, for what it says of each peer: a standing with its address, or a sample count."""

MAX_HEADER_BYTES: Final = 1 << 20
"""Of any header: a Hello that lists a sample count for each of 50,000 peers fits."""

MAX_REASON: Final = 500
"""Characters of a Bye's reason: one line for a user."""

MAX_SETTING: Final = 10_000
"""Characters of a setting's value: the widths of many layers fit."""

MAX_ROUND: Final = 2**53
"""Rounds that every JSON reader can count."""

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
        Tensor format on the wire: f8, f4 or bf16.
    parts : tuple of str
        What a whole share carries.
    fraction : float
        Part of the numbers of a tensor that a share has, see `peer.links`.
    has_places : bool
        Whether it says where they stand.
    """

    run: str
    n_agents: int
    n_parameters: int
    dtype: str
    parts: tuple[Part, ...] = PARTS
    fraction: float = 1.0
    has_places: bool = False

    @cached_property
    def n_told(self) -> int:
        """Numbers of a share's tensor: k, or p."""
        return n_kept(self.fraction, self.n_parameters)

    @cached_property
    def place_dtype(self) -> np.dtype[Any]:
        """Of places: two bytes where these are enough."""
        return np.dtype("<u2" if self.n_parameters <= 1 << 16 else "<u4")

    @cached_property
    def tensor_bytes(self) -> int:
        """Size of one tensor of a share."""
        places = self.place_dtype.itemsize if self.has_places else 0
        return self.n_told * (DTYPES[self.dtype].itemsize + places)

    @cached_property
    def max_header_bytes(self) -> int:
        """Size of the largest header that can be valid."""
        return min(MAX_HEADER_BYTES, HEADER_BYTES + HEADER_BYTES_A_PEER * self.n_agents)

    @property
    def max_frame_bytes(self) -> int:
        """Size of the largest frame that can be valid."""
        return max(self.max_header_bytes, self.n_parameters * DTYPES[self.dtype].itemsize, self.tensor_bytes)

    @property
    def max_flow_bytes(self) -> int:
        """Size of the largest frame that can be valid in a run without rounds."""
        return max(self.max_frame_bytes, (self.n_parameters + N_SCALARS) * DTYPES[SUMS_DTYPE].itemsize)


@final
class Handed(list[Frame]):
    """Frames that agents of one process hand each other, and that nobody can change.

    What the first one has made of them is kept with them: who has the same format gets the same from the same sender.

    Parameters
    ----------
    frames : sequence of bytes or memoryview
        As `encode` makes them; not copied.
    """

    __slots__ = ("decoded", "n_bytes")

    def __init__(self, frames: Sequence[Frame]) -> None:
        super().__init__([memoryview(frame).toreadonly() for frame in frames])
        self.n_bytes = sum(map(len, frames))
        self.decoded: tuple[Format, PeerId | None, Message] | None = None


def encode(message: Message, form: Format) -> list[Frame]:
    """Frames of a message; the tensors' frames are views of its arrays, which must not change any more."""
    if isinstance(message, Share):
        return _share_frames(message, form)
    header: dict[str, Any] = {"v": PROTOCOL, "run": form.run, "from": message.sender}
    if isinstance(message, Flow):
        header |= {"kind": "flow", "epoch": message.epoch, "stamp": message.stamp, "dtype": form.dtype}
        return [PACKER.pack(header), _raw(message.v, form.dtype), _raw(message.sums, SUMS_DTYPE)]
    if isinstance(message, View):
        standings = {j: structs.astuple(standing) for j, standing in message.standings.items()}
        header |= {"kind": "view", "settings": dict(message.settings), "n_classes": message.n_classes}
        return [LARGE.encode(header | {"standings": standings})]
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
        header |= {"forgotten": message.forgotten}
    return [PACKER.pack(header)]


def _share_frames(share: Share, form: Format) -> list[Frame]:
    y, z = share.y, share.z
    header = _ShareHeader(
        v=PROTOCOL,
        run=form.run,
        sender=share.sender,
        kind="share",
        n=share.n,
        floor=share.floor,
        objective=share.objective,
        validation=share.validation,
        flood=share.flood,
        dtype=form.dtype,
        parts=share.parts,
    )
    return [LARGE.encode(header), *[_raw_tensor(tensor, form) for tensor in (y, z) if tensor is not None]]


def share_bytes(form: Format) -> int:
    """Bytes of a whole share in one piece, about: header and tensors."""
    header = encode(Share(form.n_agents, 1_000, 1_000, 0.5, None, None), form)[0]
    return len(header) + len(form.parts) * (2 + form.tensor_bytes)


def flow_bytes(form: Format) -> int:
    """Bytes of a flow, about: header, v and the sums."""
    v, sums = np.zeros(form.n_parameters), np.zeros(form.n_parameters + N_SCALARS)
    return sum(map(len, encode(Flow(form.n_agents, 2**62, (1, 1_000), v, sums), form)))


def _raw_tensor(tensor: Tensor, form: Format) -> Frame:
    if not isinstance(tensor, Sparse):
        return _raw(tensor, form.dtype)
    return b"".join((_raw(tensor.values, form.dtype), tensor.places.astype(form.place_dtype).tobytes()))


def _raw(vector: Vector, dtype: str) -> memoryview:
    return packed(vector, DTYPES[dtype]).view(np.uint8).data


def decode(frames: Sequence[Frame], form: Format, came_from: PeerId | None = None) -> Message:
    """Message of some frames, every field checked.

    Parameters
    ----------
    frames : sequence of bytes or memoryview
        As they came, without the envelope.
    form : Format
        What a valid message of this run looks like.
    came_from : int or None
        Peer over whose connection they came: it has to be the sender, and is to blame for what is wrong.

    Returns
    -------
    Message
        Its tensors are read-only views of the frames where the wire carries float64.

    Raises
    ------
    WireError
        Anything that is no valid message; names the cause.
    """
    if not isinstance(frames, Handed):
        return _decoded(frames, form, came_from)
    if frames.decoded is None or frames.decoded[:2] != (form, came_from):
        frames.decoded = form, came_from, _decoded(frames, form, came_from)
    return frames.decoded[2]


def _decoded(frames: Sequence[Frame], form: Format, came_from: PeerId | None) -> Message:
    if not frames or len(frames[0]) > form.max_header_bytes:
        raise WireError("size", f"expected a header of up to {form.max_header_bytes} bytes", came_from)
    if (share := _plain_share(frames, form, came_from)) is not None:
        return share
    try:
        header = HEADER.decode(frames[0])
    except Exception as error:  # msgspec documents no common base of what it raises on malformed bytes
        raise WireError("header", "expected a msgpack map of names to values", came_from) from error
    fields = _Fields(header, came_from)
    version, run = fields.integer("v", 0, 2**31), fields.text("run", 200)
    if version != PROTOCOL:
        raise WireError("version", f"expected protocol version {PROTOCOL}, found {version}", came_from)
    if run != form.run:
        raise WireError("run", f"expected run {form.run!r}, found {run!r}", came_from)
    sender = fields.integer("from", 0, form.n_agents)
    if came_from is not None and sender != came_from:
        raise WireError("identity", f"it says it is peer {sender}", came_from)
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


def _plain_share(frames: Sequence[Frame], form: Format, came_from: PeerId | None) -> Share | None:
    """A share, whose header is read in one go; None where anything in it is not as it should be.

    Who reads the header field by field then says what. Most messages are shares, and most shares are right: read so,
    a small one costs a third.
    """
    try:
        header = SHARE.decode(frames[0])
    except Exception:  # as for any header
        return None
    sender, n, objective, flood, validation = header.sender, header.n, header.objective, header.flood, header.validation
    if (
        header.v != PROTOCOL
        or header.run != form.run
        or not 0 <= sender < form.n_agents
        or (came_from is not None and sender != came_from)
        or not 0 <= n < MAX_ROUND
        or not 0 <= header.floor < MAX_ROUND
        or not type(objective) is type(flood) is type(validation[0]) is type(validation[1]) is float
        or not flood >= 0.0
        or not (math.isfinite(objective) and math.isfinite(validation[0]) and math.isfinite(validation[1]))
        or header.dtype != form.dtype
        or header.parts != form.parts
        or len(frames) != len(form.parts) + 1
    ):
        return None
    y = _told(frames[1], form, sender, n) if "y" in form.parts else None
    z = _told(frames[-1], form, sender, n) if "z" in form.parts else None
    return Share(sender, n, header.floor, objective, y, z, flood, validation)


def _share(fields: _Fields, sender: int, tensors: Sequence[Frame], form: Format) -> Share:
    n, floor = fields.integer("n", 0, MAX_ROUND), fields.integer("floor", 0, MAX_ROUND)
    objective = fields.get("objective", NUMBER)
    if not isinstance(objective, float) or not math.isfinite(objective):
        raise WireError("nonfinite", "objective: expected a finite number", sender, n)
    flood = fields.get("flood", NUMBER)
    if not isinstance(flood, float) or not flood >= 0.0:  # nan is neither more nor less; infinity is a number here
        raise WireError("nonfinite", "flood: expected a number >= 0", sender, n)
    validation = fields.get("validation", PAIR)
    if validation is None or not all(isinstance(number, float) and math.isfinite(number) for number in validation):
        raise WireError("nonfinite", "validation: expected two finite numbers", sender, n)
    fields.dtype(form, sender, n)
    parts = fields.get("parts", WORDS)
    if parts not in (["y"], ["z"], ["y", "z"]) or len(tensors) != len(parts):
        raise WireError("frames", f"expected a tensor for each of {shown(parts)}, found {len(tensors)}", sender, n)
    if not set(parts) <= set(form.parts):
        raise WireError("frames", f"expected no tensor but {', '.join(form.parts)}", sender, n)
    vectors = {part: _told(tensor, form, sender, n) for part, tensor in zip(parts, tensors, strict=True)}
    return Share(sender, n, floor, objective, vectors.get("y"), vectors.get("z"), flood, validation)


def _flow(fields: _Fields, sender: int, tensors: Sequence[Frame], form: Format) -> Flow:
    epoch, stamp = fields.integer("epoch", 0, MAX_ROUND), fields.get("stamp", STAMP)
    if stamp is None:
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
        with np.errstate(invalid="ignore"):
            least, most = float(vector.min()), float(vector.max())
        if not (least >= -MAX_FLOW and most <= MAX_FLOW):  # nan is in no interval
            raise WireError("nonfinite", f"expected numbers up to {MAX_FLOW:g}, found larger ones or nan", sender)
    return Flow(sender, epoch, (incarnation, counter), v, sums)


def _told(frame: Frame, form: Format, sender: int, n: int) -> Tensor:
    k, p = form.n_told, form.n_parameters
    if not form.has_places or not p:
        return _tensor(frame, k, form, sender, n)
    if len(frame) != form.tensor_bytes:
        expected = f"expected {k} numbers with their places, {form.tensor_bytes} bytes"
        raise WireError("shape", f"{expected}; found {len(frame)}", sender, n)
    cut = k * DTYPES[form.dtype].itemsize
    places = np.frombuffer(frame[cut:], dtype=form.place_dtype).astype(np.int64)
    if places[-1] >= p or bool((places[1:] <= places[:-1]).any()):
        raise WireError("places", f"expected places in 0..{p - 1}, ascending, none twice", sender, n)
    return Sparse(_tensor(frame[:cut], k, form, sender, n), places)


def _tensor(frame: Frame, size: int, form: Format, sender: int, n: int | None) -> Vector:
    dtype = DTYPES[form.dtype]
    expected = size * dtype.itemsize
    if not form.n_parameters:
        raise WireError("shape", "expected no tensor while the number of parameters is not known", sender, n)
    if len(frame) != expected:
        raise WireError("shape", f"expected a tensor of {expected} bytes, found {len(frame)}", sender, n)
    return unpacked(np.frombuffer(frame, dtype=dtype), dtype)


def _hello(fields: _Fields, sender: int, form: Format) -> Hello:
    held = fields.get("held", HELD)
    if held is None or len(held) > MAX_HELD or not all(0 <= n < MAX_ROUND for n, _ in held):
        raise WireError("header", "held: expected pairs of a round and a part", sender)
    n_samples = fields.get("n_samples", COUNTS)
    if n_samples is None or not all(
        0 <= peer < form.n_agents and 0 < count < MAX_SAMPLES for peer, count in n_samples.items()
    ):
        raise WireError("header", "n_samples: expected a positive number for each peer", sender)
    return Hello(
        sender=sender,
        instance=fields.text("instance", 64),
        incarnation=fields.integer("incarnation", 0, MAX_INCARNATION),
        purpose=cast(Any, fields.choice("purpose", ("ask", "answer", "news"))),
        n=fields.integer("n", 0, MAX_ROUND),
        held=tuple(held),
        settings=fields.settings(sender),
        n_samples=n_samples,
        n_classes=fields.integer("n_classes", 0, MAX_CLASSES),
        forgotten=fields.integer("forgotten", NOTHING_FORGOTTEN, MAX_ROUND),
    )


def _view(fields: _Fields, sender: int, form: Format) -> View:
    rows = fields.get("standings", STANDINGS)
    if rows is None or sender not in rows or not all(0 <= j < form.n_agents for j in rows):
        limits = "with numbers as large as they can be, and an address"
        raise WireError("header", f"standings: expected one of each peer, the sender's too, {limits}", sender)
    if not "".join([row.instance + row.address for row in rows.values()]).isprintable():
        raise WireError("header", "standings: expected printable names and addresses", sender)
    standings = {j: Standing(*structs.astuple(row)) for j, row in rows.items()}
    return View(sender, fields.settings(sender), fields.integer("n_classes", 0, MAX_CLASSES), standings)


def _is_line(text: str) -> bool:
    """Whether it can be shown to a user: what a peer says must not clear somebody's terminal."""
    return len(text) <= MAX_SETTING and text.isprintable()


Start: TypeAlias = Annotated[int, msgspec.Meta(lt=MAX_INCARNATION)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MAX_ROUND)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_ADDRESS)]


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A standing as it comes, within its limits."""

    generation: Annotated[Start, msgspec.Meta(ge=1)]
    incarnation: Annotated[Start, msgspec.Meta(ge=-1)]
    beat: Count
    instance: Text
    n: Count
    done: Count
    over: Count
    n_samples: Count
    address: Text


class _ShareHeader(msgspec.Struct, forbid_unknown_fields=True):
    """Header of a share with all its fields, and no other."""

    v: int
    run: str
    sender: int = msgspec.field(name="from")
    kind: Literal["share"]
    n: int
    floor: int
    objective: int | float
    validation: tuple[int | float, int | float]
    flood: int | float
    dtype: str
    parts: tuple[str, ...]


PACKER: Final = msgpack.Packer()
"""One for all headers: to make one costs as much as to pack a header."""

LARGE: Final = msgspec.msgpack.Encoder(enc_hook=float)  # for numpy's numbers
"""For headers that are many, or long: it takes a tenth of the time. The bytes are the same."""

SHARE: Final = msgspec.msgpack.Decoder(_ShareHeader)
HEADER: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
INTEGER: Final = msgspec.msgpack.Decoder(int)
NUMBER: Final = msgspec.msgpack.Decoder(int | float)
PAIR: Final = msgspec.msgpack.Decoder(tuple[int | float, int | float])
TEXT: Final = msgspec.msgpack.Decoder(str)
WORDS: Final = msgspec.msgpack.Decoder(list[str])
STAMP: Final = msgspec.msgpack.Decoder(tuple[int, int])
HELD: Final = msgspec.msgpack.Decoder(list[tuple[int, Part]])
COUNTS: Final = msgspec.msgpack.Decoder(dict[int, int])
TEXTS: Final = msgspec.msgpack.Decoder(dict[str, str])
STANDINGS: Final = msgspec.msgpack.Decoder(dict[int, _Row])
"""What a header is, and the types of its fields. A field is read when it is needed, and only as what it has to be:
what is anything else is not made into objects, of which a byte can be one."""


@final
@dataclass(frozen=True)
class _Fields:
    """A header, whose fields are read one by one."""

    values: Mapping[str, msgspec.Raw]
    came_from: PeerId | None

    def get(self, key: str, kind: msgspec.msgpack.Decoder[T]) -> T | None:
        """Value of a field; None if there is none of this type."""
        if key not in self.values:
            return None
        try:
            return kind.decode(self.values[key])
        except Exception:  # as for the whole header
            return None

    def integer(self, key: str, low: int, high: int) -> int:
        """Integer in low <= value < high."""
        value = self.get(key, INTEGER)
        if value is None or not low <= value < high:
            raise WireError("header", f"{key}: expected an integer in {low}..{high - 1}", self.came_from)
        return value

    def text(self, key: str, longest: int) -> str:
        """Printable text of up to `longest` characters."""
        value = self.get(key, TEXT)
        if value is None or len(value) > longest or not value.isprintable():
            raise WireError("header", f"{key}: expected printable text of up to {longest} characters", self.came_from)
        return value

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        """One of the allowed words."""
        value = self.get(key, TEXT)
        if value is None or value not in allowed:
            raise WireError("header", f"{key}: expected one of {', '.join(allowed)}", self.came_from)
        return value

    def dtype(self, form: Format, sender: int, n: int | None) -> None:
        """The number format is that of the run."""
        if (dtype := self.get("dtype", TEXT)) != form.dtype:
            found = shown(dtype)  # short, however long it is
            raise WireError("dtype", f"expected tensors in {form.dtype}, found {found}", sender, n)

    def settings(self, sender: int) -> dict[str, str]:
        """Settings as text that can be shown."""
        found = self.get("settings", TEXTS)
        if found is None or not all(_is_line(key) and _is_line(value) for key, value in found.items()):
            raise WireError("header", f"settings: expected printable text of up to {MAX_SETTING} characters", sender)
        return found
