"""Files with their digest, and arrays whose headers are read before memory is taken."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from stpredict.core._sealed import SEAL_BYTES, array_of, is_sealed, read_sealed, seal, write_sealed


def npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


def whole(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=array.dtype.hasobject)
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 3_000_000])
def test_sealed_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    write_sealed(path, tmp_path / "b", content)
    assert read_sealed(path) == content
    assert is_sealed(path)
    path.write_bytes(content + bytes(SEAL_BYTES))
    assert read_sealed(path) is None
    assert not is_sealed(path)
    seal(path)
    assert read_sealed(path) == content
    assert is_sealed(path)
    for damaged in (path.read_bytes()[:-1], path.read_bytes() + b"y", b"short"):
        path.write_bytes(damaged)
        assert read_sealed(path) is None
        assert not is_sealed(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.zeros((0, 4)), np.float32(3), np.asfortranarray(np.eye(3))]
)
def test_arrays_are_read(array: np.ndarray) -> None:
    found = array_of(whole(np.asarray(array)))
    assert found is not None
    np.testing.assert_array_equal(found, array)


SHAPES = [
    "(1000000000000,)",
    "(10000000000, 10000000000)",
    "(-1,)",
    "(2, -3)",
    "(1" + "0" * 40 + ",)",
    "(True,)",
    "('a',)",
    "7",
]


@pytest.mark.parametrize("shape", SHAPES)
def test_absurd_shapes_take_no_memory(shape: str) -> None:
    assert array_of(npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n", b"\0" * 64)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        b"\x93NUMPY\x07\x00",
        b"\x93NUMPY\x01\x00\xff\xff{",
        npy("{'descr': '<f4'"),
        npy("[1, 2]"),
        npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 4),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 8),
        whole(np.arange(4))[:-1],
        whole(np.arange(4)) + b"\0",
        whole(np.array([{}])),
    ],
)
def test_what_is_no_array(content: bytes) -> None:
    assert array_of(content) is None
