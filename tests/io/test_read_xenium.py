"""Cells of Xenium on their H&E image, from small files in the layout of a run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import stpredict as stp

RUN_UM = 0.2125
# Of the image: turned by 90°, 0.274 µm per pixel, shifted; as Xenium Explorer exports it.
MATRIX = np.array([[0.011, 1.2896, -20.0], [-1.2896, 0.011, 300.0], [0, 0, 1]])
CELLS = ["aaaa-1", "aaab-1", "aaac-1", "aaad-1", "aaae-1"]
GENES = ["EPCAM", "CD3E", "NegControlProbe_1"]


def write(
    root: Path, counts_writer, *, kind: str = "h5", cells: str = "parquet", matrix: np.ndarray | None = MATRIX
) -> np.ndarray:
    """A run of five cells with an H&E image; where they lie on it (n, 2)."""
    rng = np.random.default_rng(0)
    places = rng.uniform(20, 180, (len(CELLS), 2))
    run_px = places if matrix is None else places @ matrix[:2, :2].T + matrix[:2, 2]
    root.mkdir(parents=True)
    specs = {
        "major_version": 5,
        "run_name": "run",
        "region_name": "R1",
        "pixel_size": RUN_UM,
        "z_step_size": float("nan"),
    }
    (root / "experiment.xenium").write_text(json.dumps(specs))
    table = pd.DataFrame({"cell_id": CELLS, "x_centroid": run_px[:, 0] * RUN_UM, "y_centroid": run_px[:, 1] * RUN_UM})
    table["transcript_counts"], table["cell_area"], table["nucleus_area"] = 10, 78.54, [20.0, 25, 30, np.nan, 22]
    shuffled = table.iloc[[3, 0, 4, 1, 2]]
    if cells == "parquet":
        shuffled.assign(cell_id=[name.encode() for name in shuffled["cell_id"]]).to_parquet(root / "cells.parquet")
    else:
        with gzip.open(root / "cells.csv.gz", "wt") as file:
            shuffled.to_csv(file, index=False)
    kinds = np.array(["Gene Expression", "Gene Expression", "Negative Control Probe"], "S")
    if kind == "h5":
        counts_writer(root / "cell_feature_matrix.h5", CELLS, GENES, **{"features/feature_type": kinds})
    else:
        counts_writer(root / "cell_feature_matrix", CELLS, GENES[:2])
    if matrix is not None:
        picture = rng.integers(0, 255, (200, 210, 3), dtype=np.uint8)
        tifffile.imwrite(root / "S_he_image.ome.tif", picture, photometric="rgb")
        np.savetxt(root / "S_he_imagealignment.csv", matrix, delimiter=",", fmt="%.12g")
    return places


@pytest.mark.parametrize(("kind", "cells"), [("h5", "parquet"), ("mtx", "csv")])
def test_cells_lie_on_the_image(tmp_path, counts_writer, kind, cells) -> None:
    places = write(tmp_path / "run1", counts_writer, kind=kind, cells=cells)
    adata = stp.io.read_xenium(tmp_path / "run1", patient="P1")
    assert list(adata.obs_names) == CELLS
    np.testing.assert_allclose(adata.obsm["spatial"], places, atol=1e-6)
    assert list(adata.var_names) == GENES[:2]  # without controls
    factors = adata.uns["spatial"]["run1"]["scalefactors"]
    mpp = RUN_UM * np.hypot(0.011, 1.2896)
    assert factors["microns_per_pixel"] == pytest.approx(mpp)
    assert factors["spot_diameter_fullres"] == pytest.approx(10 / mpp, rel=1e-4)
    assert adata.uns["spatial"]["run1"]["metadata"]["source_image_path"].endswith("S_he_image.ome.tif")
    assert adata.obs["nucleus_area"].isna().tolist() == [False, False, False, True, False]
    assert adata.obs["sample"].unique().tolist() == ["run1"]
    stp.pp.image_features(adata, tile_um=10, cache=False)


def test_without_an_image_positions_are_those_of_the_run(tmp_path, counts_writer) -> None:
    places = write(tmp_path / "run", counts_writer, matrix=None)
    adata = stp.io.read_xenium(tmp_path / "run", "S", "P")
    np.testing.assert_allclose(adata.obsm["spatial"], places, atol=1e-6)
    assert adata.uns["spatial"]["S"]["scalefactors"]["microns_per_pixel"] == RUN_UM
    total = np.asarray(adata.X.sum(axis=1)).ravel()
    least = int(np.sort(total)[1])
    few = stp.io.read_xenium(tmp_path / "run", "S", "P", min_counts=least)
    assert list(few.obs_names) == [name for name, n in zip(CELLS, total, strict=True) if n >= least]
    with pytest.raises(ValueError, match="at least 10000 counts; found none"):
        stp.io.read_xenium(tmp_path / "run", min_counts=10_000)
    with pytest.raises(ValueError, match=r"expected an image with `alignment=`"):
        stp.io.read_xenium(tmp_path / "run", alignment=np.eye(3))


def test_an_image_elsewhere_and_one_with_pixels_that_are_not_square(tmp_path, counts_writer) -> None:
    places = write(tmp_path / "run", counts_writer)
    elsewhere = tmp_path / "he"
    elsewhere.mkdir()
    for name in ("S_he_image.ome.tif", "S_he_imagealignment.csv"):
        (tmp_path / "run" / name).rename(elsewhere / name)
    adata = stp.io.read_xenium(tmp_path / "run", "S", "P", image=elsewhere / "S_he_image.ome.tif")
    np.testing.assert_allclose(adata.obsm["spatial"], places, atol=1e-6)
    wide = MATRIX @ np.diag([2.0, 1.0, 1.0])  # each pixel is two of the image before wide
    picture = tifffile.imread(elsewhere / "S_he_image.ome.tif")[:, ::2]
    tifffile.imwrite(elsewhere / "wide.tif", picture, photometric="rgb")
    stretched = stp.io.read_xenium(tmp_path / "run", "S", "P", image=elsewhere / "wide.tif", alignment=wide)
    np.testing.assert_allclose(stretched.obsm["spatial"], places, atol=1e-6)


def _replaced(name: str, text: str) -> object:
    return lambda root: (root / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda root: (root / "experiment.xenium").unlink(), FileNotFoundError, r"expected experiment\.xenium in .*found S_he"),
        (lambda root: (root / "cells.parquet").unlink(), FileNotFoundError, r"expected cells\.parquet or cells\.csv"),
        (lambda root: (root / "cell_feature_matrix.h5").unlink(), FileNotFoundError, r"expected cell_feature_matrix\.h5"),
        (lambda root: (root / "S_he_imagealignment.csv").unlink(), FileNotFoundError, r"found none; pass `alignment=`"),
        (_replaced("experiment.xenium", "{}"), ValueError, "expected pixel_size"),
        (_replaced("experiment.xenium", '{"pixel_size": "x"}'), ValueError, "positive number; found 'x'"),
        (_replaced("cells.parquet", "x"), ValueError, r"expected cells in .*damaged"),
        (_replaced("S_he_imagealignment.csv", "fixedX,fixedY\n1,2\n"), ValueError, "3 x 3 numbers in .*alignment.csv"),
        (_replaced("S_he_imagealignment.csv", "1,0,0\n0,1,0\n"), ValueError, "3 x 3 numbers .*found .*1.0, 0.0"),
        (_replaced("S_he_imagealignment.csv", "1,1,0\n1,1,0\n0,0,1\n"), ValueError, "can be inverted"),
        (_replaced("S_he_imagealignment.csv", "9,0,900\n0,9,0\n0,0,1\n"), ValueError, "inside the image"),
        (lambda root: (root / "T_he_image.tif").write_bytes(b"x"), ValueError, "expected one H&E image .*pass `image=`"),
    ],
)  # fmt: skip
def test_damaged_runs_are_named(tmp_path, counts_writer, damage, error, message) -> None:
    root = tmp_path / "run"
    write(root, counts_writer)
    damage(root)
    with pytest.raises(error, match=message):
        stp.io.read_xenium(root, "S", "P")


def test_cells_of_another_run_are_refused(tmp_path, counts_writer) -> None:
    root = tmp_path / "run"
    write(root, counts_writer)
    table = pd.read_parquet(root / "cells.parquet")
    table.assign(cell_id=[f"other{i}" for i in range(len(table))]).to_parquet(root / "cells.parquet")
    with pytest.raises(ValueError, match="expected cells of the counts among those with a position; found none"):
        stp.io.read_xenium(root)
    table.assign(x_centroid=np.nan).to_parquet(root / "cells.parquet")
    with pytest.raises(ValueError, match="expected numbers in x_centroid"):
        stp.io.read_xenium(root)
