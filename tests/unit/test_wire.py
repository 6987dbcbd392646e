"""Messages to frames and back, and everything that is no message."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any, cast

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import structs
from numpy.typing import NDArray

from peer import wire
from peer.arrays import DTYPES, Sparse, rounded
from peer.errors import WireError
from peer.messages import MAX_INCARNATION, PROTOCOL, Bye, Flow, Hello, Message, Share, Standing, View

FORM = wire.Format("run", 5, 3, "f8")

numbers = st.floats(allow_nan=False, allow_infinity=False)
small = st.floats(-(2.0**126), 2.0**126, width=32)
vectors = st.lists(small, min_size=3, max_size=3).map(lambda values: np.array(values, dtype=np.float64))
lines = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20)
senders = st.integers(0, 4)
rounds = st.integers(0, wire.MAX_ROUND - 1)
pieces = st.sampled_from([("y",), ("z",), ("y", "z")])
hellos = st.builds(
    Hello,
    sender=senders,
    instance=lines,
    incarnation=st.integers(0, 2**31 - 1),
    purpose=st.sampled_from(["ask", "answer", "news"]),
    n=rounds,
    held=st.lists(st.tuples(rounds, st.sampled_from(["y", "z"])), max_size=5).map(tuple),
    settings=st.dictionaries(lines, lines, max_size=3),
    n_samples=st.dictionaries(senders, st.integers(1, wire.MAX_SAMPLES - 1)),
    n_classes=st.integers(0, wire.MAX_CLASSES - 1),
    forgotten=st.integers(-1, wire.MAX_ROUND - 1),
)
byes = st.builds(Bye, sender=senders, reason=lines)
sizes = st.floats(-wire.MAX_FLOW, wire.MAX_FLOW)
flows = st.builds(
    Flow,
    sender=senders,
    epoch=rounds,
    stamp=st.tuples(st.integers(0, MAX_INCARNATION - 1), rounds),
    v=vectors,
    sums=st.lists(sizes, min_size=5, max_size=5).map(np.array),
)


standings = st.builds(
    Standing,
    generation=st.integers(1, 2**31 - 1),
    incarnation=st.integers(-1, 2**31 - 1),
    beat=rounds,
    instance=lines,
    n=rounds,
    done=rounds,
    over=rounds,
    n_samples=rounds,
    address=lines,
)


@st.composite
def views(draw: st.DrawFn) -> View:
    sender = draw(senders)
    others = draw(st.dictionaries(senders, standings))
    settings = draw(st.dictionaries(lines, lines, max_size=3))
    return View(sender, settings, draw(st.integers(0, wire.MAX_CLASSES - 1)), others | {sender: draw(standings)})


@st.composite
def shares(draw: st.DrawFn) -> Share:
    parts = draw(pieces)
    y, z = (draw(vectors) if part in parts else None for part in ("y", "z"))
    flood = draw(st.floats(0.0, exclude_min=False))
    validation = draw(st.tuples(numbers, numbers))
    return Share(draw(senders), draw(rounds), draw(rounds), draw(numbers), y, z, flood, validation)


def same(a: Message, b: Message) -> bool:
    return type(a) is type(b) and all(
        np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other
        for one, other in zip(structs.astuple(a), structs.astuple(b), strict=True)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@given(message=st.one_of(hellos, byes, flows, shares(), views()))
def test_what_is_decoded_is_what_was_encoded(dtype: str, message: Message) -> None:
    """But for rounding of tensors; of sums, which are always f8, nothing is rounded."""
    form = replace(FORM, dtype=dtype)
    frames = wire.encode(message, form)
    if isinstance(message, Share | Flow):
        tensors = {name: getattr(message, name) for name in ("y", "z", "v") if getattr(message, name, None) is not None}
        seen: dict[str, Any] = {name: rounded(value, DTYPES[dtype]) for name, value in tensors.items()}
        message = message.changed(**seen)
    assert same(wire.decode([bytes(frame) for frame in frames], form), message)
    assert same(wire.decode([memoryview(bytes(frame)) for frame in frames], form), message)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("p", "place_bytes"), [(70, 2), (70_000, 4)])
@given(data=st.data())
def test_some_entries_with_their_places(dtype: str, p: int, place_bytes: int, data: st.DataObject) -> None:
    """What a share says of a tensor is k numbers and k places, however large p is."""
    form = wire.Format("run", 5, p, dtype, fraction=3 / p, has_places=True)
    y, z = (Sparse(rounded(data.draw(vectors), DTYPES[dtype]), places_of(data, p)) for _ in range(2))
    frames = [bytes(frame) for frame in wire.encode(Share(1, 3, 0, 0.5, y, z), form)]
    assert (
        [len(frame) for frame in frames[1:]]
        == [form.tensor_bytes] * 2
        == [3 * (DTYPES[dtype].itemsize + place_bytes)] * 2
    )
    assert abs(sum(map(len, frames)) - wire.share_bytes(form)) <= 8
    found = wire.decode(frames, form)
    assert isinstance(found, Share)
    for part, told in ((found.y, y), (found.z, z)):
        assert isinstance(part, Sparse)
        np.testing.assert_array_equal(part.values, told.values)
        np.testing.assert_array_equal(part.places, told.places)


def places_of(data: st.DataObject, p: int) -> NDArray[np.int64]:
    return np.array(sorted(data.draw(st.sets(st.integers(0, p - 1), min_size=3, max_size=3))), dtype=np.int64)


@pytest.mark.parametrize(
    ("places", "cause"),
    [([0, 1, 70], "places"), ([0, 2, 1], "places"), ([2, 2, 3], "places"), ([0, 1], "shape"), ([0, 1, 2, 3], "shape")],
    ids=["too large", "descending", "twice", "too few", "too many"],
)
def test_places_that_are_none(places: list[int], cause: str) -> None:
    form = wire.Format("run", 5, 70, "f8", fraction=3 / 70, has_places=True)
    header, _ = wire.encode(Share(1, 3, 0, 0.5, Sparse(np.zeros(3), np.arange(3)), None), form)
    frame = np.zeros(3).tobytes() + np.array(places, dtype="<u2").tobytes()
    error = refused([bytes(header), frame], form)
    assert (error.cause, error.sender, error.n) == (cause, 1, 3)


def test_a_part_of_the_entries_without_their_places() -> None:
    """Of those that are drawn both ends know where they stand."""
    form = wire.Format("run", 5, 70, "f8", fraction=0.1)
    frames = [bytes(frame) for frame in wire.encode(Share(1, 3, 0, 0.5, np.arange(7.0), None), form)]
    found = wire.decode(frames, form)
    assert isinstance(found, Share)
    assert isinstance(found.y, np.ndarray)
    np.testing.assert_array_equal(found.y, np.arange(7.0))
    assert refused([frames[0], bytes(8 * 70)], form).cause == "shape"


def test_tensors_are_little_endian_and_not_copied() -> None:
    y = np.array([1.0, -2.0, 0.5])
    _, frame = wire.encode(Share(0, 0, 0, 0.0, y, None), FORM)
    assert bytes(frame) == np.array(y, dtype="<f8").tobytes()
    assert np.shares_memory(np.frombuffer(frame), y)
    received = bytes(frame)
    share = wire.decode([wire.encode(Share(0, 0, 0, 0.0, y, None), FORM)[0], received], FORM)
    assert isinstance(share, Share)
    assert isinstance(share.y, np.ndarray)
    assert not share.y.flags.writeable
    assert np.shares_memory(share.y, np.frombuffer(received))


def test_what_is_handed_over_is_read_once_by_all_who_read_alike() -> None:
    frames = wire.Handed(wire.encode(Share(0, 1, 0, 0.5, np.arange(3.0), np.ones(3)), FORM))
    assert frames.n_bytes == sum(map(len, frames))
    found = wire.decode(frames, FORM, 0)
    assert same(found, wire.decode([bytes(frame) for frame in frames], FORM, 0))
    assert wire.decode(frames, replace(FORM), 0) is found, "an equal format will do"
    for _ in range(2):
        with pytest.raises(WireError, match="expected run 'another'"):
            wire.decode(frames, replace(FORM, run="another"), 0)
        with pytest.raises(WireError, match="it says it is peer 0"):
            wire.decode(frames, FORM, 1)
    again = wire.decode(frames, FORM, 0)
    assert same(again, found)


def test_f4_rounds_to_nearest() -> None:
    form = replace(FORM, dtype="f4")
    y = np.array([0.1, 1.0 + 2.0**-30, 1e-50])
    share = cast(Share, wire.decode(wire.encode(Share(0, 0, 0, 0.1, y, None, 0.3, (0.7, -0.1)), form), form))
    assert np.array_equal(share.y, y.astype(np.float32))  # type: ignore[arg-type]
    assert (share.objective, share.flood, share.validation) == (0.1, 0.3, (0.7, -0.1))


def test_running_sums_are_never_rounded() -> None:
    form = replace(FORM, dtype="f4")
    v, sums = np.array([0.1, 1.0 + 2.0**-30, 1e-50]), np.array([1e10 + 2.0**-18, 0.1, -1.0 / 3.0, 1e-300, 1e150])
    header, frame, exact = wire.encode(Flow(0, 1, (2, 3), v, sums), form)
    assert (len(frame), len(exact)) == (4 * 3, 8 * 5)
    flow = cast(Flow, wire.decode([header, bytes(frame), bytes(exact)], form))
    assert np.array_equal(flow.v, v.astype(np.float32))
    assert np.array_equal(flow.sums, sums)
    assert not flow.sums.flags.writeable
    assert np.shares_memory(np.frombuffer(exact), sums)


def test_share_bytes_are_about_those_of_a_share() -> None:
    for form in (FORM, replace(FORM, n_parameters=10_000, dtype="f4")):
        v = np.zeros(form.n_parameters)
        actual = sum(map(len, wire.encode(Share(3, 200, 100, 0.5, v, v), form)))
        assert abs(wire.share_bytes(form) - actual) <= 16


def test_where_no_gradient_is_tracked_a_share_is_one_tensor_and_another_is_refused() -> None:
    form, v = replace(FORM, n_parameters=1_000, parts=("z",)), np.zeros(1_000)
    frames = wire.encode(Share(3, 200, 100, 0.5, None, v), form)
    found = cast(Share, wire.decode(frames, form))
    assert found.y is None
    assert np.array_equal(cast(Any, found.z), v)
    assert abs(wire.share_bytes(form) - sum(map(len, frames))) <= 16
    for share in (Share(3, 200, 100, 0.5, v, v), Share(3, 200, 100, 0.5, v, None)):
        with pytest.raises(WireError, match="expected no tensor but z"):
            wire.decode(wire.encode(share, form), form)


def test_flow_bytes_are_about_those_of_a_flow() -> None:
    for dtype, size in (("f8", 8), ("f4", 4)):
        form = wire.Format("run", 3, 1000, dtype)
        found = wire.flow_bytes(form) - 1000 * size - 1002 * 8  # v as the run sends it, sums always in full
        assert 50 < found < 150


def test_the_largest_valid_frame() -> None:
    assert FORM.max_frame_bytes == FORM.max_header_bytes
    assert FORM.max_flow_bytes == FORM.max_header_bytes
    large = replace(FORM, n_parameters=10**6, dtype="f4")
    assert large.max_frame_bytes == 4 * 10**6
    assert large.max_flow_bytes == 8 * (10**6 + 2)


def test_a_reason_becomes_one_line_of_limited_length() -> None:
    reason = "a\nb\x1b[2J" + "x" * 1000
    bye = cast(Bye, wire.decode(wire.encode(Bye(0, reason), FORM), FORM))
    assert bye.reason.startswith("a b [2Jxxx")
    assert len(bye.reason) == wire.MAX_REASON


# ---- what is no message --------------------------------------------------------------------

TENSOR = np.array([1.0, 2.0, 3.0]).tobytes()
SHARE: dict[str, Any] = {
    "v": PROTOCOL,
    "run": "run",
    "from": 1,
    "kind": "share",
    "n": 7,
    "floor": 0,
    "objective": 0.5,
    "flood": float("inf"),
    "validation": [0.25, 0.5],
    "dtype": "f8",
    "parts": ["y", "z"],
}
SUMS = np.array([1.0, 2.0, 3.0, 4.0, 5.0]).tobytes()
FLOW: dict[str, Any] = {
    "v": PROTOCOL,
    "run": "run",
    "from": 1,
    "kind": "flow",
    "epoch": 3,
    "stamp": [2, 7],
    "dtype": "f8",
}
BYE: dict[str, Any] = {"v": PROTOCOL, "run": "run", "from": 1, "kind": "bye", "reason": ""}
VIEW: dict[str, Any] = {
    "v": PROTOCOL,
    "run": "run",
    "from": 1,
    "kind": "view",
    "settings": {},
    "n_classes": 2,
    "standings": {1: [1, 0, 5, "a", 7, 0, 0, 9, "tcp://a:1"]},
}
HELLO: dict[str, Any] = {
    "v": PROTOCOL,
    "run": "run",
    "from": 1,
    "kind": "hello",
    "instance": "a",
    "purpose": "ask",
    "incarnation": 0,
    "n": 0,
    "held": [[1, "y"]],
    "settings": {"a": "b"},
    "n_samples": {1: 5},
    "n_classes": 0,
    "forgotten": -1,
}


def nested(depth: int) -> bytes:
    """A list in a list in a list."""
    return b"\x91" * depth + b"\x01"


def refused(frames: list[bytes], form: wire.Format = FORM) -> WireError:
    with pytest.raises(WireError) as refusal:
        wire.decode(frames, form)
    text = str(refusal.value)
    assert text.isprintable(), "one line"
    assert len(text) < 500
    return refusal.value


def test_the_examples_are_valid_but_for_what_is_changed() -> None:
    assert isinstance(wire.decode([msgpack.packb(SHARE), TENSOR, TENSOR], FORM), Share)
    assert isinstance(wire.decode([msgpack.packb(FLOW), TENSOR, SUMS], FORM), Flow)
    assert isinstance(wire.decode([msgpack.packb(BYE)], FORM), Bye)
    assert isinstance(wire.decode([msgpack.packb(HELLO)], FORM), Hello)
    assert isinstance(wire.decode([msgpack.packb(VIEW)], FORM), View)


@pytest.mark.parametrize(
    "standings",
    [
        {},
        {2: [1, 0, 5, "a", 7, 0, 0, 9, ""]},
        {1: [1, 0, 5, "a", 7, 0, 0, 9, ""], 5: [1, 0, 5, "a", 7, 0, 0, 9, ""]},
        {1: []},
        {1: [1, 0, 5, "a", 7, 0, 0, 9]},
        {1: [1, 0, 5, "a", 7, 0, 0, 9, "", 0]},
        {1: [0, 0, 5, "a", 7, 0, 0, 9, ""]},
        {1: [True, 0, 5, "a", 7, 0, 0, 9, ""]},
        {1: [1, -2, 5, "a", 7, 0, 0, 9, ""]},
        {1: [1, 0, wire.MAX_ROUND, "a", 7, 0, 0, 9, ""]},
        {1: [1, 0, 5, "a", 7.0, 0, 0, 9, ""]},
        {1: [1, 0, 5, "a\n", 7, 0, 0, 9, ""]},
        {1: [1, 0, 5, "a", 7, 0, 0, 9, "x" * (wire.MAX_ADDRESS + 1)]},
        {1: [1, 0, 5, "a", 7, 0, 0, 9, b"tcp://a:1"]},
        {1: "standing"},
        {"1": [1, 0, 5, "a", 7, 0, 0, 9, ""]},
        [[1, 0, 5, "a", 7, 0, 0, 9, ""]],
    ],
)
def test_views_that_are_refused(standings: Any) -> None:
    assert refused([msgpack.packb(VIEW | {"standings": standings})]).cause == "header"


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"v": PROTOCOL + 1}, "version"),
        ({"v": True}, "header"),
        ({"v": 2**63}, "header"),
        ({"v": None}, "header"),
        ({"run": "other"}, "run"),
        ({"run": b"run"}, "header"),
        ({"run": "r" * 201}, "header"),
        ({"from": 5}, "header"),
        ({"from": -1}, "header"),
        ({"from": True}, "header"),
        ({"from": 1.0}, "header"),
        ({"from": 2**64 - 1}, "header"),
        ({"kind": "shout"}, "header"),
        ({"kind": ["share"]}, "header"),
        ({"kind": {}}, "header"),
        ({"n": -1}, "header"),
        ({"n": wire.MAX_ROUND}, "header"),
        ({"n": False}, "header"),
        ({"n": 2**64 - 1}, "header"),
        ({"floor": "0"}, "header"),
        ({"objective": float("nan")}, "nonfinite"),
        ({"objective": float("inf")}, "nonfinite"),
        ({"objective": 1}, "nonfinite"),
        ({"flood": float("nan")}, "nonfinite"),
        ({"flood": -1e-300}, "nonfinite"),
        ({"flood": -float("inf")}, "nonfinite"),
        ({"flood": 1}, "nonfinite"),
        ({"flood": None}, "nonfinite"),
        ({"validation": None}, "nonfinite"),
        ({"validation": 0.5}, "nonfinite"),
        ({"validation": [0.5]}, "nonfinite"),
        ({"validation": [0.5, 0.5, 0.5]}, "nonfinite"),
        ({"validation": [0.5, 1]}, "nonfinite"),
        ({"validation": [float("nan"), 0.5]}, "nonfinite"),
        ({"validation": [0.5, float("inf")]}, "nonfinite"),
        ({"dtype": "f4"}, "dtype"),
        ({"dtype": "O"}, "dtype"),
        ({"dtype": ["f8"]}, "dtype"),
        ({"dtype": "x" * 10_000}, "dtype"),
        ({"parts": ["z", "y"]}, "frames"),
        ({"parts": ["y"]}, "frames"),
        ({"parts": []}, "frames"),
        ({"parts": "yz"}, "frames"),
        ({"parts": ["y" * 10_000]}, "frames"),
        ({"parts": None}, "frames"),
    ],
)
def test_share_headers_that_are_refused(changed: dict[str, Any], cause: str) -> None:
    assert refused([msgpack.packb(SHARE | changed), TENSOR, TENSOR]).cause == cause


@pytest.mark.parametrize("key", SHARE)
def test_a_share_lacks_no_field(key: str) -> None:
    refused([msgpack.packb({name: value for name, value in SHARE.items() if name != key}), TENSOR, TENSOR])


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ({"from": 5}, "header"),
        ({"epoch": -1}, "header"),
        ({"epoch": wire.MAX_ROUND}, "header"),
        ({"epoch": 1.0}, "header"),
        ({"epoch": None}, "header"),
        ({"stamp": 7}, "header"),
        ({"stamp": []}, "header"),
        ({"stamp": [7]}, "header"),
        ({"stamp": [1, 2, 3]}, "header"),
        ({"stamp": {"1": 2}}, "header"),
        ({"stamp": [True, 1]}, "header"),
        ({"stamp": [1, 1.0]}, "header"),
        ({"stamp": [1, "2"]}, "header"),
        ({"stamp": [-1, 2]}, "header"),
        ({"stamp": [1, -2]}, "header"),
        ({"stamp": [MAX_INCARNATION, 2]}, "header"),
        ({"stamp": [1, wire.MAX_ROUND]}, "header"),
        ({"stamp": [2**64 - 1, 2**64 - 1]}, "header"),
        ({"dtype": "f4"}, "dtype"),
        ({"dtype": None}, "dtype"),
    ],
)
def test_flow_headers_that_are_refused(changed: dict[str, Any], cause: str) -> None:
    assert refused([msgpack.packb(FLOW | changed), TENSOR, SUMS]).cause == cause


@pytest.mark.parametrize("key", FLOW)
def test_a_flow_lacks_no_field(key: str) -> None:
    refused([msgpack.packb({name: value for name, value in FLOW.items() if name != key}), TENSOR, SUMS])


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 2 * wire.MAX_FLOW, -2 * wire.MAX_FLOW])
def test_flows_carry_numbers_that_can_be_reckoned_with(place: int, number: float) -> None:
    sums, v = np.ones(5), np.ones(3)
    sums[place] = v[place % 3] = number
    assert refused([msgpack.packb(FLOW), TENSOR, sums.tobytes()]).cause == "nonfinite"
    assert refused([msgpack.packb(FLOW), v.tobytes(), SUMS]).cause == "nonfinite"


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_flows_of_f4_carry_numbers_too(number: float) -> None:
    form, v = replace(FORM, dtype="f4"), np.array([1.0, number, 1.0], dtype=np.float32)
    assert refused([msgpack.packb(FLOW | {"dtype": "f4"}), v.tobytes(), SUMS], form).cause == "nonfinite"


def test_the_tensors_of_a_flow_have_their_sizes() -> None:
    for tensors in ([SUMS, TENSOR], [TENSOR, SUMS[:-1]], [TENSOR, SUMS + b"\0"], [TENSOR, TENSOR], [b"", b""]):
        assert refused([msgpack.packb(FLOW), *tensors]).cause == "shape"
    for tensors in ([], [TENSOR], [TENSOR, SUMS, SUMS]):
        assert refused([msgpack.packb(FLOW), *tensors]).cause == "frames"
    unknown = replace(FORM, n_parameters=0)
    for tensors in ([b"", SUMS[:16]], [b"", b""], [TENSOR, SUMS]):
        assert refused([msgpack.packb(FLOW), *tensors], unknown).cause == "shape"


@pytest.mark.parametrize("key", HELLO)
def test_a_hello_lacks_no_field(key: str) -> None:
    refused([msgpack.packb({name: value for name, value in HELLO.items() if name != key})])


@pytest.mark.parametrize(
    "changed",
    [
        {"purpose": "tell"},
        {"instance": "x" * 65},
        {"instance": "a\x1b[2J"},
        {"incarnation": -1},
        {"held": [[1]]},
        {"held": [[1, "x"]]},
        {"held": [[-1, "y"]]},
        {"held": [[True, "y"]]},
        {"held": [[wire.MAX_ROUND, "y"]]},
        {"held": [[1, ["y"]]]},
        {"held": {"1": "y"}},
        {"held": [[1, "y"]] * (wire.MAX_HELD + 1)},
        {"settings": {"a": 1}},
        {"settings": {1: "a"}},
        {"settings": ["a"]},
        {"settings": {"a": "x\ny"}},
        {"settings": {"a": "x" * (wire.MAX_SETTING + 1)}},
        {"n_samples": {5: 1}},
        {"n_samples": {-1: 1}},
        {"n_samples": {1: 0}},
        {"n_samples": {1: wire.MAX_SAMPLES}},
        {"n_samples": {True: 1}},
        {"n_samples": {1: True}},
        {"n_samples": {1: 1.0}},
        {"n_classes": wire.MAX_CLASSES},
        {"n_classes": -1},
        {"forgotten": -2},
        {"forgotten": wire.MAX_ROUND},
    ],
)
def test_hellos_that_are_refused(changed: dict[str, Any]) -> None:
    assert refused([msgpack.packb(HELLO | changed)]).cause == "header"


@pytest.mark.parametrize("reason", ["x" * (wire.MAX_REASON + 1), "two\nlines", None, b""])
def test_byes_that_are_refused(reason: object) -> None:
    assert refused([msgpack.packb(BYE | {"reason": reason})]).cause == "header"


@pytest.mark.parametrize("tensor", [TENSOR[:-1], TENSOR[:-8], TENSOR + b"\0", TENSOR * 2, b""])
def test_tensors_have_the_size_of_the_parameters(tensor: bytes) -> None:
    error = refused([msgpack.packb(SHARE), TENSOR, tensor])
    assert (error.cause, error.sender, error.n) == ("shape", 1, 7)


def test_no_share_is_decoded_while_the_number_of_parameters_is_unknown() -> None:
    """Not even an empty one, which would fit zero parameters."""
    for tensor in (b"", TENSOR):
        assert refused([msgpack.packb(SHARE), tensor, tensor], replace(FORM, n_parameters=0)).cause == "shape"


def test_frames_are_as_many_as_the_parts() -> None:
    for tensors in ([], [TENSOR], [TENSOR] * 3):
        assert refused([msgpack.packb(SHARE), *tensors]).cause == "frames"
    assert refused([msgpack.packb(BYE), TENSOR]).cause == "frames"
    assert refused([msgpack.packb(HELLO), TENSOR]).cause == "frames"


def test_headers_have_a_limit() -> None:
    assert refused([]).cause == "size"
    assert refused([b"\x80" * (FORM.max_header_bytes + 1)]).cause == "size"
    assert refused([msgpack.packb(SHARE | {"more": "x" * FORM.max_header_bytes})]).cause == "size"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"garbage",
        msgpack.packb([1, 2]),
        msgpack.packb("text"),
        msgpack.packb(None),
        msgpack.packb(SHARE)[:-1],
        msgpack.packb(SHARE) + b"\0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\x91\x01\x01",  # a map whose key is a list
        b"\x81\xa1v\xd4\x00\x00",  # an extension type
        b"\xa2\xff\xfe",  # text that is no UTF-8
        nested(100_000),
    ],
)
def test_what_is_no_header(header: bytes) -> None:
    assert refused([header]).cause == "header"


@pytest.mark.parametrize("depth", [10, 300, 600, 1000, 2000, 100_000])
@pytest.mark.parametrize("key", [*SHARE, "other"])
def test_deep_nesting_is_a_wire_error_in_every_field(depth: int, key: str) -> None:
    """Even where the message shows what it found, and with little of the stack left."""
    rest = {name: value for name, value in SHARE.items() if name != key}
    header = bytes([0x80 + len(rest) + 1]) + msgpack.packb(rest)[1:] + msgpack.packb(key) + nested(depth)

    def deep(more: int) -> None:
        if more:
            deep(more - 1)
        elif key == "other" and depth <= 300:
            wire.decode([header, TENSOR, TENSOR], FORM)  # fields of later versions are ignored
        elif key == "other":
            decode_or_refuse([header, TENSOR, TENSOR])
        else:
            refused([header, TENSOR, TENSOR])

    deep(500)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.integers(0, 9) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


# ---- headers that are read in one go -------------------------------------------------------


def outcome(frames: list[bytes], form: wire.Format, came_from: int | None) -> tuple[Any, ...]:
    """What a message is decoded to, or why it is refused, in a form that can be compared."""
    try:
        message = wire.decode(frames, form, came_from)
    except WireError as error:
        return error.cause, error.sender, error.n, str(error)
    return tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in structs.astuple(message))


@settings(max_examples=500, deadline=None)
@given(data=st.data(), parts=pieces, came_from=st.none() | st.integers(0, 5))
def test_a_share_read_in_one_go_is_the_share_read_field_by_field(
    data: st.DataObject, parts: tuple[Any, ...], came_from: int | None
) -> None:
    """Or refused for the same reason, whatever its header says."""
    form = replace(FORM, parts=parts)
    y, z = (data.draw(vectors) if part in parts else None for part in ("y", "z"))
    head, *tensors = (bytes(frame) for frame in wire.encode(Share(1, 3, 2, 0.5, y, z), form))
    header = msgpack.unpackb(head)
    for key in data.draw(st.lists(st.sampled_from([*header, "other"]), max_size=2)):
        header[key] = data.draw(junk | st.sampled_from([0, 1, 3.0, "f8", "y", ["z"], [0.5, 0.25], [1, 0.5]]))
    for key in data.draw(st.sets(st.sampled_from([*header]), max_size=1)):
        if data.draw(st.booleans()):
            del header[key]
    frames = [msgpack.packb(header), *tensors[: data.draw(st.integers(0, 2))]]
    found = outcome(frames, form, came_from)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_plain_share", lambda *given: None)
        assert outcome(frames, form, came_from) == found


def test_a_plain_share_is_read_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_share", None)
    frames = wire.encode(Share(1, 3, 2, 0.5, np.ones(3), np.zeros(3), 0.25, (0.5, 1.0)), FORM)
    assert same(wire.decode(frames, FORM, 1), Share(1, 3, 2, 0.5, np.ones(3), np.zeros(3), 0.25, (0.5, 1.0)))


# ---- no bytes raise anything else ----------------------------------------------------------


def decode_or_refuse(frames: list[bytes], form: wire.Format = FORM) -> None:
    """Anything but a WireError fails the test by itself."""
    problem = ""
    try:
        assert 0 <= wire.decode(frames, form).sender < form.n_agents
    except WireError as error:
        problem = str(error)
    assert problem.isprintable() or not problem
    assert len(problem) < 500


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=64), max_size=4))
@example([b"\x80"])
def test_random_bytes(frames: list[bytes]) -> None:
    decode_or_refuse(frames)


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_mutated_messages(data: st.DataObject) -> None:
    """Some bytes of a valid message are changed, dropped or put in."""
    message = data.draw(st.one_of(hellos, byes, flows, shares(), views()))
    frames = [bytearray(bytes(frame)) for frame in wire.encode(message, FORM)]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = data.draw(st.sampled_from(frames))
        place = data.draw(st.integers(0, max(len(frame) - 1, 0)))
        frame[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    decode_or_refuse([bytes(frame) for frame in frames])


@settings(max_examples=500, deadline=None)
@given(base=st.sampled_from([SHARE, FLOW, HELLO, BYE]), data=st.data())
def test_valid_headers_with_other_values(base: dict[str, Any], data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(base)), min_size=1, max_size=3))
    header = base | {key: data.draw(junk) for key in keys}
    decode_or_refuse([msgpack.packb(header), *data.draw(st.sampled_from([[], [TENSOR], [TENSOR] * 2, [TENSOR, SUMS]]))])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_that_signals_is_refused_without_a_word(dtype: str) -> None:
    """The processor would say that it has met one, and numpy would warn."""
    form = replace(FORM, dtype=dtype)
    nan = {"f8": b"\1\0\0\0\0\0\xf0\x7f", "f4": b"\1\0\x80\x7f", "bf16": b"\x81\x7f"}[dtype]
    header, v, sums = (bytes(frame) for frame in wire.encode(Flow(1, 3, (0, 1), np.zeros(3), np.zeros(5)), form))
    assert refused([header, nan + v[len(nan) :], sums], form).cause == "nonfinite"
    header, y = (bytes(frame) for frame in wire.encode(Share(1, 3, 0, 0.5, np.zeros(3), None), form))
    received = cast(Share, wire.decode([header, nan + y[len(nan) :]], form)).y
    assert isinstance(received, np.ndarray)
    assert np.isnan(received[0]), "of a share that is found where it is mixed"


@pytest.mark.parametrize("objects", [b"\x90", b"\x80", b"\xa1x"], ids=["lists", "maps", "texts"])
@pytest.mark.parametrize("key", [None, *HELLO, "other"])
def test_a_header_of_a_hundred_thousand_objects_makes_none(key: str | None, objects: bytes) -> None:
    """Each of its bytes could become 64 in memory, and a microsecond."""
    count = 120_000 // len(objects)
    bomb = b"\xdd" + count.to_bytes(4, "big") + objects * count
    if key is not None:
        rest = {name: value for name, value in HELLO.items() if name != key}
        bomb = bytes([0x80 + len(rest) + 1]) + msgpack.packb(rest)[1:] + msgpack.packb(key) + bomb
    tracemalloc.start()
    try:
        decode_or_refuse([bomb])
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
