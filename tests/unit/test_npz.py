"""npz files, whole or not at all."""

from __future__ import annotations

import io
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from peer import npz

ARRAYS: dict[str, NDArray[Any]] = {
    "a": np.arange(6.0).reshape(2, 3),
    "b.c": np.array("text"),
    "n": np.array(7),
    "none": np.zeros((0, 3)),
}


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r".") as refusal:
        npz.load(path)
    text = str(refusal.value)
    assert type(refusal.value) is ValueError
    assert str(path) in text
    assert "\n" not in text
    return text


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    npz.save(tmp_path / "x.npz", ARRAYS)
    found = npz.load(tmp_path / "x.npz")
    assert list(found) == list(ARRAYS)
    assert all(np.array_equal(found[name], ARRAYS[name]) and found[name].dtype == ARRAYS[name].dtype for name in ARRAYS)


KINDS: dict[str, NDArray[Any]] = {
    "by columns": np.arange(6.0).reshape(2, 3).T,
    "a part of one": np.arange(24.0).reshape(4, 6)[::2, 1::2],
    "no bytes at all": np.array([], dtype="U1"),
    "größer": np.array([1.5, -0.0, np.nan], dtype=np.float32),
    "big endian": np.arange(3, dtype=">i8"),
    "true": np.array([True, False]),
    "pairs": np.array([(1, 2.0)], dtype=[("n", "<i4"), ("x", "<f8")]),
    "one": np.array(2.5),
}


def test_what_is_written_is_what_numpy_writes(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    npz.save(path, ARRAYS | KINDS)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        written = {name: archive.read(f"{name}.npy") for name in ARRAYS | KINDS}
    for name, array in (ARRAYS | KINDS).items():
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        assert written[name] == file.getvalue(), name


def test_equal_arrays_are_equal_files(tmp_path: Path) -> None:
    for name in ("x.npz", "y.npz"):
        npz.save(tmp_path / name, ARRAYS)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    npz.save(tmp_path / "x.npz", {"a": np.zeros(1000)})
    npz.save(tmp_path / "x.npz", ARRAYS)
    assert set(npz.load(tmp_path / "x.npz")) == set(ARRAYS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    npz.save(tmp_path / "x.npz", ARRAYS)
    with pytest.raises(ValueError, match="allow_pickle"):
        npz.save(tmp_path / "x.npz", {"a": np.array([{}], dtype=object)})
    assert set(npz.load(tmp_path / "x.npz")) == set(ARRAYS)


def test_no_file(tmp_path: Path) -> None:
    assert "found none" in refused(tmp_path / "x.npz")


def test_a_folder(tmp_path: Path) -> None:
    assert "whole npz file" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"P", b"garbage " * 100, b"PK\x03\x04"])
def test_garbage(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    assert "allow_pickle" not in refused(tmp_path / "x.npz"), "nobody is told to load it otherwise"


def test_every_torn_file_is_refused(tmp_path: Path) -> None:
    npz.save(tmp_path / "x.npz", ARRAYS)
    whole = (tmp_path / "x.npz").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "x.npz").write_bytes(whole[:length])
        refused(tmp_path / "x.npz")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    """Nothing but ValueError comes out, whichever byte is changed."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **ARRAYS)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    try:
        found = npz.load(path)
    except ValueError:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


def test_a_single_array_is_another_kind(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    assert "found another kind" in refused(tmp_path / "x.npz")


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "readme.txt" in refused(tmp_path / "x.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.savez(file, x=np.array([{"a": 1}], dtype=object))
    assert "allow_pickle" in refused(tmp_path / "x.npz")


def test_an_array_that_claims_to_be_huge(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**45, 1)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", buffer.getvalue())
    refused(tmp_path / "x.npz")


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    npz.save(tmp_path / "a.npz", {"x": np.zeros(2)})
    (tmp_path / "a.npz.12345678.part").write_bytes(b"half")
    npz.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    npz.save(path, {"x": np.zeros(2)})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for n_bytes in (0, 100, 5_000, 79_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            with pytest.raises(OSError, match="File too large") as refusal:
                npz.save(path, {"x": np.zeros(5_000), "y": np.ones(5_000)})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert refusal.value.filename == str(path)
        assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]
        assert path.read_bytes() == before


def test_a_folder_that_is_gone_is_named_by_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refusal:
        npz.save(tmp_path / "no" / "a.npz", {"x": np.zeros(2)})
    assert refusal.value.filename == str(tmp_path / "no" / "a.npz")


@pytest.mark.parametrize("error", [MemoryError("9 GB"), KeyboardInterrupt()], ids=repr)
def test_whatever_stops_the_writing_leaves_nothing(error: BaseException, tmp_path: Path) -> None:
    def write(file: object) -> None:
        raise error

    with pytest.raises(type(error)):
        npz.replace(tmp_path / "a.npz", write)
    assert not list(tmp_path.iterdir())
