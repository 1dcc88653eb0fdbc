from __future__ import annotations

import errno
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stpredict.pp._cache import FeatureCache, cache_key

KEY = cache_key({"name": "x"})
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
arrays = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int16, np.uint8]),
    shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
)
plain = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=4), st.binary(max_size=4))
parts = st.dictionaries(st.text(max_size=3), st.one_of(plain, st.lists(plain, max_size=3)), max_size=4)


@quick
@given(array=arrays)
def test_round_trip(tmp_path, array):
    cache = FeatureCache(tmp_path)
    cache.put(KEY, array)
    found = cache.get(KEY)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@quick
@given(array=arrays, where=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_changed_byte_is_not_trusted(tmp_path, array, where, flip):
    cache = FeatureCache(tmp_path)
    cache.put(KEY, array)
    content = bytearray(cache.path(KEY).read_bytes())
    content[where % len(content)] ^= flip
    cache.path(KEY).write_bytes(content)
    assert cache.get(KEY) is None


@quick
@given(keep=st.floats(0, 0.999))
def test_a_truncated_file_is_not_trusted(tmp_path, keep):
    cache = FeatureCache(tmp_path)
    cache.put(KEY, np.arange(30.0))
    content = cache.path(KEY).read_bytes()
    cache.path(KEY).write_bytes(content[: int(keep * len(content))])
    assert cache.get(KEY) is None


@quick
@given(one=parts, other=parts)
def test_keys_differ_exactly_where_inputs_do(one, other):
    def kinds(value):
        return (
            [(type(item).__name__, item) for item in value]
            if isinstance(value, list)
            else (type(value).__name__, value)
        )

    same = {k: kinds(v) for k, v in one.items()} == {k: kinds(v) for k, v in other.items()}
    assert (cache_key(one) == cache_key(other)) == same


def test_key_ignores_order_and_sees_array_shape():
    assert cache_key({"a": 1, "b": "x"}) == cache_key({"b": "x", "a": 1})
    values = np.arange(6.0)
    keys = {cache_key({"a": array}) for array in (values, values.reshape(2, 3), values.astype(np.float32), -values)}
    assert len(keys) == 4
    assert cache_key({"a": 112}) == cache_key({"a": 112.0}) == cache_key({"a": np.float64(112)})


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    cache = FeatureCache(tmp_path)
    cache.put(KEY, np.ones(3))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        cache.put(KEY, np.zeros(3))
    np.testing.assert_array_equal(cache.get(KEY), np.ones(3))
    assert [path.name for path in cache.path(KEY).parent.iterdir()] == [f"{KEY}.npy"]


def test_numpy_reads_the_file(tmp_path):
    cache = FeatureCache(tmp_path)
    cache.put(KEY, np.arange(4))
    np.testing.assert_array_equal(np.load(cache.path(KEY)), np.arange(4))


def test_errors(tmp_path):
    cache = FeatureCache(tmp_path)
    with pytest.raises(ValueError, match="64 hexadecimal"):
        cache.get("../../etc")
    with pytest.raises(TypeError, match="objects"):
        cache.put(KEY, np.array([object()]))
    with pytest.raises(TypeError, match="cache key"):
        cache_key({"a": {1, 2}})
    assert cache.get(KEY) is None


def test_default_directory_follows_the_settings(tmp_path, monkeypatch):
    from stpredict import settings as package

    monkeypatch.setattr(package, "cache_dir", tmp_path)
    assert FeatureCache().directory == tmp_path / "features"


def test_a_file_that_claims_another_size_is_computed_again(tmp_path):
    """Its digest fits, as somebody made it."""
    cache = FeatureCache(tmp_path)
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 9), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 64
    cache.path(KEY).parent.mkdir(parents=True)
    cache.path(KEY).write_bytes(content + hashlib.sha256(content).digest())
    assert cache.get(KEY) is None
    found, known = cache.get_or_compute(KEY, (3,), lambda: np.ones(3))
    assert not known
    np.testing.assert_array_equal(found, cache.get(KEY))


def test_what_is_asked_for_at_once_is_computed_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        time.sleep(0.1)
        return np.ones(3)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: FeatureCache(tmp_path).get_or_compute(KEY, (3,), compute), range(4)))
    assert len(calls) == 1
    assert sorted(known for _, known in found) == [False, True, True, True]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{KEY}.npy"]


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / f".{KEY}.0123abcd.new").write_bytes(b"half")
    (tmp_path / f".{KEY}.stplock").touch()
    (tmp_path / "notes.txt").write_text("mine")
    FeatureCache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG])
def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    cache, keys = FeatureCache(tmp_path), (KEY, KEY[::-1])
    with pytest.warns(UserWarning, match="could not be cached in .*returned all the same.*cache_dir") as caught:
        found = [cache.get_or_compute(key, (3,), lambda: np.ones(3))[0] for key in keys]
    np.testing.assert_array_equal(found, np.ones((2, 3)))
    assert len(caught) == 1
