from __future__ import annotations

import numpy as np
import pytest

from stpredict.io._lattice import pitch_px


def square(n: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, col = np.mgrid[:n, : n + 2].reshape(2, -1)
    return row, col, np.column_stack([col, row]).astype(float)


def hexagonal(n: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, step = np.mgrid[:n, :n].reshape(2, -1)
    col = 2 * step + row % 2
    return row, col, np.column_stack([col / 2, row * np.sqrt(3) / 2])


def turned(xy: np.ndarray, degrees: float, flip: bool) -> np.ndarray:
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return xy @ matrix.T * ([-1, 1] if flip else [1, 1])


@pytest.mark.parametrize("degrees", [0, 17, 90, 180])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("lattice", "make"), [("square", square), ("hexagonal", hexagonal)])
def test_pitch_survives_rotation_and_reflection(lattice, make, degrees, flip):
    row, col, unit = make()
    xy = turned(unit * 86.0, degrees, flip) + [1000, -400]
    assert pitch_px(row, col, xy, lattice) == pytest.approx(86.0, rel=1e-9)


@pytest.mark.parametrize(("lattice", "make"), [("square", square), ("hexagonal", hexagonal)])
def test_pitch_is_the_distance_of_nearest_neighbors(lattice, make):
    from scipy.spatial import cKDTree

    row, col, unit = make()
    xy = turned(unit * 290.0, 3, False)
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    assert pitch_px(row, col, xy, lattice) == pytest.approx(np.median(nearest))


def test_noise_averages_out():
    row, col, unit = square(18)
    xy = unit * 290 + np.random.default_rng(0).normal(scale=15, size=unit.shape)
    assert pitch_px(row, col, xy) == pytest.approx(290, rel=0.005)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_spots(n):
    row, col, unit = square()
    with pytest.raises(ValueError, match=f"found {n} spot"):
        pitch_px(row[:n], col[:n], unit[:n])


def test_spots_on_a_line():
    with pytest.raises(ValueError, match="not on a line"):
        pitch_px(np.arange(5), np.arange(5), np.arange(10.0).reshape(5, 2))


def test_positions_of_other_spots():
    row, col, unit = square()
    shuffled = np.random.default_rng(0).permutation(unit)
    with pytest.raises(ValueError, match="same spots"):
        pitch_px(row, col, shuffled * 100)


def test_wrong_kind_of_lattice():
    row, col, unit = square()
    with pytest.raises(ValueError, match="expected a hexagonal lattice"):
        pitch_px(row, col, unit * 100, "hexagonal")
    row, col, unit = hexagonal()
    with pytest.raises(ValueError, match="expected a square lattice"):
        pitch_px(row, col, unit * 100, "square")
    with pytest.raises(ValueError, match="'square', 'hexagonal'"):
        pitch_px(row, col, unit * 100, "triangular")


def test_both_words_for_a_hexagonal_lattice():
    import anndata as ad
    import pandas as pd

    import stpredict as stp

    row, col, unit = hexagonal()
    assert pitch_px(row, col, unit * 86.0, "hex") == pitch_px(row, col, unit * 86.0, "hexagonal")
    with pytest.raises(ValueError, match="lattice to be one of"):
        pitch_px(row, col, unit, "triangular")
    obs = pd.DataFrame({"sample": "A", "array_row": row, "array_col": col}).rename(index=str)
    cells = {}
    for word in ("hex", "hexagonal"):
        adata = ad.AnnData(obs=obs.copy())
        stp.pp.grid(adata, lattice=word)
        cells[word] = adata.obs[["grid_row", "grid_col"]]
        assert adata.uns["stpredict"]["grid"]["lattice"] == {"A": "hex"}
    assert cells["hex"].equals(cells["hexagonal"])
