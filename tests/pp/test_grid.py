from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stpredict as stp
from stpredict.slots._provenance import read_record

PITCH = 37.3


def lattice_steps(shape: tuple[int, int], lattice: str) -> np.ndarray:
    """Array rows and columns (n, 2); on a hexagonal lattice as Visium counts them."""
    row, col = np.indices(shape).reshape(2, -1)
    return np.column_stack([row, 2 * col + row % 2 if lattice == "hex" else col])


def pixels(steps: np.ndarray, lattice: str, tilt: float = 0.0) -> np.ndarray:
    scale = (0.5, np.sqrt(3) / 2) if lattice == "hex" else (1.0, 1.0)
    xy = steps[:, ::-1] * scale * PITCH
    tilt = np.radians(tilt)
    return xy @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]) + 400


def section(steps: np.ndarray | None = None, xy: np.ndarray | None = None, name: str = "A") -> ad.AnnData:
    n = len(steps if steps is not None else xy)
    obs = pd.DataFrame({"sample": name}, index=[f"{name}{i}" for i in range(n)])
    if steps is not None:
        obs["array_row"], obs["array_col"] = np.asarray(steps).T
    return ad.AnnData(np.ones((n, 1), np.float32), obs=obs, obsm=None if xy is None else {"spatial": xy})


def cells(adata: ad.AnnData) -> np.ndarray:
    return adata.obs[["grid_row", "grid_col"]].to_numpy()


def gaps(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances in space in pitches, and in cells by the larger of rows and columns, of all pairs."""
    space = np.linalg.norm(before[:, None] - before[None], axis=2) / PITCH
    return space, np.abs(after[:, None] - after[None]).max(axis=2)


@st.composite
def sections(draw: st.DrawFn) -> tuple[np.ndarray, str]:
    """Array positions of a section with holes, at least two of them neighbors, shifted by any offset."""
    lattice = draw(st.sampled_from(["hex", "square"]))
    shape = draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    steps = lattice_steps(shape, lattice)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kept = rng.random(len(steps)) < draw(st.floats(0.4, 1))
    start = rng.integers(shape[0] - 1) * shape[1] + rng.integers(shape[1] - 1)
    kept[[start, start + 1, start + shape[1]]] = True
    return rng.permutation(steps[kept]) + draw(st.tuples(st.integers(0, 5), st.integers(0, 5))), lattice


@pytest.mark.parametrize("with_pixels", [True, False])
@given(drawn=sections())
@settings(deadline=None, max_examples=60)
def test_neighbors_stay_within_one_cell(with_pixels: bool, drawn: tuple[np.ndarray, str]) -> None:
    steps, lattice = drawn
    xy = pixels(steps, lattice)
    adata = section(steps, xy if with_pixels else None)
    stp.pp.grid(adata)
    record = read_record(adata, "grid")
    assert record["lattice"]["A"] == lattice
    assert record["source"]["A"] == "array"
    cell = cells(adata)
    space, apart = gaps(xy, cell)
    near = (space > 0) & (space < 1.1)
    assert near.any()
    assert (apart[near] == 1).all()
    assert (apart[space > 0] > 0).all()
    assert cell[:, 1].min() == 0
    assert cell[:, 0].min() in ((0, 1) if lattice == "hex" else (0,))
    assert record["shape"]["A"] == (cell.max(axis=0) + 1).tolist()
    if lattice == "hex":  # cells are places again, the odd rows to the right
        back = np.column_stack([cell[:, 0], 2 * cell[:, 1] + cell[:, 0] % 2])
        np.testing.assert_allclose(np.diff(pixels(back, "hex"), axis=0), np.diff(xy, axis=0), atol=1e-9)


@given(
    drawn=sections(),
    tilt=st.floats(-6, 6),
    jitter=st.floats(0, 0.06),
    scale=st.floats(0.3, 20),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_pixels_give_the_cells_of_the_array(
    drawn: tuple[np.ndarray, str], tilt: float, jitter: float, scale: float, seed: int
) -> None:
    steps, lattice = drawn
    # enough neighbors to tell the lattice; on a hexagonal one rows and columns differ by an odd number everywhere or nowhere
    full = lattice_steps((12, 12), lattice) + (20, 20 + steps[0].sum() % 2)
    steps = np.unique(np.concatenate([steps, full]), axis=0)
    xy = pixels(steps, lattice, tilt)
    xy = (xy + np.random.default_rng(seed).normal(0, jitter * PITCH, xy.shape)) * scale
    adata, derived = section(steps), section(None, xy)
    stp.pp.grid(adata)
    stp.pp.grid(derived)
    assert read_record(derived, "grid")["source"]["A"] == "spatial"
    assert read_record(derived, "grid")["lattice"]["A"] == lattice
    np.testing.assert_array_equal(cells(derived), cells(adata))


@pytest.mark.parametrize("shape", [(78, 64), (33, 35)])
@pytest.mark.parametrize("tilt", [0, 1.5])
def test_full_arrays_from_pixels(shape: tuple[int, int], tilt: float) -> None:
    lattice = "hex" if shape == (78, 64) else "square"
    steps = lattice_steps(shape, lattice)
    xy = pixels(steps, lattice, tilt) + np.random.default_rng(0).normal(0, 0.06 * PITCH, (len(steps), 2))
    adata = section(None, xy)
    stp.pp.grid(adata)
    row, col = np.indices(shape).reshape(2, -1)
    np.testing.assert_array_equal(cells(adata), np.column_stack([row, col]))
    assert read_record(adata, "grid")["shape"]["A"] == list(shape)


def test_gaps_of_the_lattice_stay() -> None:
    adata = section(np.array([[3, 5], [3, 6], [7, 5], [7, 9]]))
    stp.pp.grid(adata)
    np.testing.assert_array_equal(cells(adata), [[0, 0], [0, 1], [4, 0], [4, 4]])


def test_sections_of_different_platforms() -> None:
    hexagonal, square = lattice_steps((5, 4), "hex") + (1, 2), lattice_steps((4, 6), "square")
    parts = [
        section(hexagonal, pixels(hexagonal, "hex"), "V"),
        section(square, pixels(square, "square"), "S"),
        section(np.array([[9, 9]]), np.array([[5.0, 5.0]]), "L"),
        section(None, pixels(square, "square"), "N"),
    ]
    adata = ad.concat(parts, join="outer")
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    assert stp.pp.grid(adata) is None
    record = read_record(adata, "grid")
    assert record["lattice"] == {"V": "hex", "S": "square", "L": record["lattice"]["L"], "N": "square"}
    assert record["source"] == {"V": "array", "S": "array", "L": "array", "N": "spatial"}
    assert record["shape"] == {"V": [5, 4], "S": [4, 6], "L": [1, 1], "N": [4, 6]}
    assert adata.obs["grid_row"].dtype.kind == "i"


def test_the_first_row_is_the_one_that_needs_fewer_columns() -> None:
    steps = lattice_steps((5, 4), "hex")
    for shifted, first, shape in [(steps, 0, [5, 4]), (steps[4:], 1, [5, 4]), (steps[4:] + (3, 8), 1, [5, 4])]:
        adata = section(shifted)
        stp.pp.grid(adata)
        assert adata.obs["grid_row"].min() == first
        assert read_record(adata, "grid")["shape"]["A"] == shape


def test_even_rows_that_lie_to_the_right_become_odd_ones() -> None:
    adata = section(np.array([[0, 1], [0, 3], [1, 0], [1, 2], [2, 1]]))
    stp.pp.grid(adata)
    np.testing.assert_array_equal(cells(adata), [[1, 0], [1, 1], [2, 0], [2, 1], [3, 0]])


def test_copy_and_storage(tmp_path: Any) -> None:
    adata = section(lattice_steps((4, 4), "hex"))
    before = adata.copy()
    changed = stp.pp.grid(adata, copy=True)
    assert list(adata.obs) == list(before.obs)
    assert not adata.uns
    changed.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert read_record(back, "grid") == read_record(changed, "grid")
    np.testing.assert_array_equal(cells(back), cells(changed))


def test_table_of_a_spatialdata() -> None:
    spatialdata = pytest.importorskip("spatialdata")
    sdata = spatialdata.SpatialData(tables={"spots": section(lattice_steps((3, 3), "square"))})
    stp.pp.grid(sdata, table_key="spots")
    assert sdata.tables["spots"].uns["stpredict"]["grid"]["shape"]["A"].tolist() == [3, 3]


def test_tiles_of_a_slide_are_square() -> None:
    diagonal = section(np.array([[0, 0], [1, 1], [2, 2]]))
    stp.pp.grid(diagonal)
    assert diagonal.uns["stpredict"]["grid"]["lattice"]["A"] == "hex"
    diagonal.obs["tile_id"] = [0, 1, 2]
    stp.pp.grid(diagonal)
    assert diagonal.uns["stpredict"]["grid"]["lattice"]["A"] == "square"
    np.testing.assert_array_equal(cells(diagonal), [[0, 0], [1, 1], [2, 2]])


def test_a_checkerboard_is_told_from_a_hexagonal_lattice_by_its_pixels() -> None:
    steps = lattice_steps((6, 6), "square")
    steps = steps[steps.sum(axis=1) % 2 == 0]
    adata = section(steps, pixels(steps, "square"))
    stp.pp.grid(adata)
    # Turned by 45°: its neighbors lie on the diagonals.
    row, col = steps.T
    turned = np.column_stack([row + col, col - row]) // 2
    np.testing.assert_array_equal(cells(adata), turned - turned.min(axis=0))
    stp.pp.grid(adata, lattice="square")
    np.testing.assert_array_equal(cells(adata), steps)
    stp.pp.grid(adata, lattice="hex")
    assert adata.obs["grid_col"].max() == 2


SQUARE, HEX = lattice_steps((6, 6), "square"), lattice_steps((6, 6), "hex")
RANDOM = np.random.default_rng(0).random((80, 2)) * 1000


@pytest.mark.parametrize(
    ("steps", "xy", "options", "error", "message"),
    [
        (np.concatenate([SQUARE, SQUARE[:1]]), None, {}, ValueError, "'A0' and 'A36' in one, and 1 such pair in all"),
        (None, np.concatenate([pixels(SQUARE, "square")] * 2), {}, ValueError, "'A0' and 'A36' in one; drop"),
        (None, RANDOM, {}, ValueError, "square or hexagonal lattice of pixel positions.*repeat every 90° to 0"),
        (None, pixels(SQUARE, "square"), {"lattice": "hex"}, ValueError, "a hexagonal lattice.*every 90° to 1.00 of 1"),
        (None, pixels(SQUARE, "square", 30), {}, ValueError, "found 30°; pass array positions"),
        (None, pixels(HEX, "hex")[:, ::-1], {}, ValueError, "found -?30°; pass array positions"),
        (SQUARE, None, {"lattice": "hex"}, ValueError, "both even or both odd.*50% that are not; pass lattice='square'"),
        (HEX // (1, 2), pixels(HEX, "hex"), {}, ValueError, r"advance by one; double them \(2 \* array_col"),
        (HEX[:, ::-1], pixels(HEX, "hex"), {}, ValueError, "exchange obs"),
        (HEX, pixels(HEX, "hex") * (1, 3), {}, ValueError, "factor of 3.00.*pass lattice='hex'"),
        (SQUARE, pixels(SQUARE[::-1], "square")[np.r_[18:36, :18]], {}, ValueError, "explain .*% of it"),
        (SQUARE + RANDOM[:36] / 1000, None, {}, ValueError, "near whole numbers.*drop obs"),
        (np.where(SQUARE == 5, np.nan, SQUARE), None, {}, ValueError, "found none for A5, A11"),
        (SQUARE * np.nan, np.where(pixels(SQUARE, "square") > 586, np.nan, 1), {}, ValueError, "neither array.*A5"),
        (SQUARE * np.nan, None, {}, ValueError, "neither array positions nor pixels for A0"),
        (SQUARE.astype(str), None, {}, ValueError, "expected numbers in obs"),
        (SQUARE, None, {"lattice": "triangle"}, ValueError, "'auto', 'hex', 'square'; found 'triangle'"),
        (SQUARE, None, {"sample_key": "slide"}, KeyError, "obs\\['slide'\\]"),
    ],
)  # fmt: skip
def test_errors_name_both_sides_and_change_nothing(
    steps: Any, xy: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    adata = section(steps, xy)
    before = adata.copy()
    with pytest.raises(error, match=message):
        stp.pp.grid(adata, **options)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert not adata.uns


def test_positions_are_needed() -> None:
    adata = section(SQUARE)
    del adata.obs["array_col"]
    with pytest.raises(KeyError, match=r"or in obsm\['spatial'\]; found none"):
        stp.pp.grid(adata)
    adata.obs["sample"] = [None] + ["A"] * 35
    with pytest.raises(ValueError, match="without gaps; found 1"):
        stp.pp.grid(adata)
