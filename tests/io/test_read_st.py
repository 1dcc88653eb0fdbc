"""Arrays before Visium: their files, the lattice that tells the µm per pixel, and pixels that are not square."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from scipy.spatial import KDTree

import stpredict as stp
from stpredict.io._image import section_image
from stpredict.io._lattice import axis_pitches_px

STEP = 12.0  # pixels of a step of the array along y
WIDE = 0.8  # of that along x: pixels are wider than high
GENES = ["ENSG1.1", "ENSG2.3", "ENSG3.1"]


def picture(stretch: float) -> np.ndarray:
    """Blobs of color that are round on the tissue, in pixels that are `1 / stretch` as wide as high."""
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.normal(size=(300, 300, 3)), (6, 6, 0))
    colors = np.clip(140 + 40 * smooth / smooth.std(), 0, 255)
    x, y = np.arange(round(300 * stretch)) / stretch, np.arange(300)
    grid = np.meshgrid(y, x, indexing="ij")
    return np.stack(
        [ndimage.map_coordinates(colors[..., c], grid, order=1, mode="nearest") for c in range(3)], 2
    ).astype(np.uint8)


def write(
    root: Path,
    name: str,
    *,
    stretch: float = 1.0,
    checkerboard: bool = False,
    turn: float = 0.0,
    suffix: str = "_spots.tsv",
) -> np.ndarray:
    """One section, its spots in pixels (n, 2) before pixels were stretched."""
    root.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[2:16, 2:18].reshape(2, -1)
    if checkerboard:
        x, y = x[(x + y) % 2 == 0], y[(x + y) % 2 == 0]
    centered = (
        np.column_stack([x - 10, y - 9])
        * STEP
        @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    )
    xy = centered + 150
    spots = pd.DataFrame({"x": x, "y": y, "new_x": x, "new_y": y, "pixel_x": xy[:, 0] * stretch, "pixel_y": xy[:, 1]})
    spots["selected"] = 1
    spots.loc[0, "selected"] = 0
    spots.to_csv(root / f"{name}{suffix}", sep="\t", index=False)
    counts = pd.DataFrame(rng.poisson(2, (len(x), 3)), [f"{a}x{b}" for a, b in zip(x, y, strict=True)], GENES).sample(
        frac=1, random_state=1
    )
    with gzip.open(root / f"{name}.tsv.gz", "wt") as file:
        counts.to_csv(file, sep="\t")
    Image.fromarray(picture(stretch)).save(root / f"{name}.png")
    return xy[1:]


def test_two_sections_in_one_folder(tmp_path) -> None:
    xy = write(tmp_path / "st", "S2")
    write(tmp_path / "st", "S10", suffix="_selection.tsv")
    (tmp_path / "st" / "genes.tsv").write_text(
        "gene_id\tgene_type\tgene_name\nENSG1.1\tx\tActb\nENSG2.3\tx\tGnas\nENSG9\tx\tNo\n"
    )
    adata = stp.io.read_st(tmp_path / "st", patient={"S2": "a", "S10": "b"})
    assert list(adata.obs["sample"].unique()) == ["S2", "S10"]  # as a reader counts
    assert adata.obs.groupby("sample", observed=True)["patient"].first().to_dict() == {"S2": "a", "S10": "b"}
    assert adata.var["gene_ids"].to_dict() == {"Actb": "ENSG1.1", "ENSG3.1": "ENSG3.1", "Gnas": "ENSG2.3"}
    first = adata[adata.obs["sample"] == "S2"]
    np.testing.assert_allclose(first.obsm["spatial"], xy, atol=1e-9)
    factors = adata.uns["spatial"]["S2"]["scalefactors"]
    assert factors["microns_per_pixel"] == pytest.approx(200 / STEP)
    assert "source_microns_per_pixel_x" not in factors
    assert factors["spot_diameter_fullres"] == pytest.approx(100 * STEP / 200)
    raw = pd.read_csv(tmp_path / "st" / "S2.tsv.gz", sep="\t", index_col=0)
    names = [name.removeprefix("S2_") for name in first.obs_names]
    np.testing.assert_array_equal(first[:, ["Actb", "Gnas", "ENSG3.1"]].X.toarray(), raw.loc[names, GENES])


def test_a_checkerboard_has_steps_of_100_um(tmp_path) -> None:
    write(tmp_path / "st", "S1", checkerboard=True)
    adata = stp.io.read_st(tmp_path / "st", patient="a")
    mpp = adata.uns["spatial"]["S1"]["scalefactors"]["microns_per_pixel"]
    assert mpp == pytest.approx(100 / STEP)
    near = KDTree(adata.obsm["spatial"] * mpp).query(adata.obsm["spatial"] * mpp, k=2)[0][:, 1]
    np.testing.assert_allclose(near, 100 * np.sqrt(2))
    stp.pp.grid(adata)
    # Neighbors on the tissue are neighbors in the grid, and every cell between four of them is taken.
    cell = adata.obs[["grid_row", "grid_col"]].to_numpy()
    step = KDTree(cell).query(cell, k=2)[0][:, 1]
    np.testing.assert_array_equal(step, 1)
    apart = np.linalg.norm(cell[:, None] - cell, axis=2)
    um = np.linalg.norm(adata.obsm["spatial"][:, None] - adata.obsm["spatial"], axis=2) * mpp
    np.testing.assert_allclose(um, apart * 100 * np.sqrt(2), atol=1e-6)


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_pixels_that_are_not_square_are_made_so(tmp_path, turn) -> None:
    """Positions, neighbors, tiles, context and pictures are those of a scan with square pixels."""
    xy = write(tmp_path / "square", "S1", turn=turn)
    write(tmp_path / "wide", "S1", stretch=WIDE, turn=turn)
    one = stp.io.read_st(tmp_path / "square", patient="a")
    two = stp.io.read_st(tmp_path / "wide", patient="a")
    factors = two.uns["spatial"]["S1"]["scalefactors"]
    assert factors["microns_per_pixel"] == pytest.approx(200 / STEP)
    assert factors["source_microns_per_pixel_x"] == pytest.approx(200 / STEP / WIDE)
    assert factors["source_microns_per_pixel_y"] == pytest.approx(200 / STEP)
    np.testing.assert_allclose(two.obsm["spatial"], xy, atol=1e-6)
    assert factors["spot_diameter_fullres"] == pytest.approx(100 * STEP / 200)
    features = []
    for adata in (one, two):
        few = adata[::25].copy()
        stp.pp.image_features(few, tile_um=500, context=(1, 2), cache=False, check=False)
        features.append(few.obsm["X_color-texture"])
    gap = np.abs(features[0] - features[1]).mean(axis=0)
    spread = features[0].std(axis=0)
    assert np.median(gap[spread > 1e-6] / spread[spread > 1e-6]) < 0.05
    thumbnails = [adata.uns["spatial"]["S1"]["images"]["hires"].astype(float) for adata in (one, two)]
    assert thumbnails[0].shape == thumbnails[1].shape == (300, 300, 3)
    assert np.abs(thumbnails[0] - thumbnails[1]).mean() < 2


def test_what_is_stretched_is_stretched_wherever_it_is_read(tmp_path) -> None:
    write(tmp_path / "st", "S1", stretch=WIDE)
    adata = stp.io.read_st(tmp_path / "st", patient="a")
    found = section_image(adata, adata, "S1")
    assert (found.width, found.height) == (300, 300)
    raw = np.array(Image.open(tmp_path / "st" / "S1.png"))
    given = section_image(adata, adata, "S1", raw)
    np.testing.assert_array_equal(given.band(0, 300), found.band(0, 300))
    np.testing.assert_array_equal(found.band(10, 60), found.band(0, 300)[10:60])
    before = found.fingerprint()
    found.close()
    assert found.fingerprint() == before
    sdata = stp.io.to_spatialdata(adata, full_resolution=True)
    element = section_image(sdata, sdata["table"], "S1", sdata.images["S1_image"])
    assert (element.width, element.height) == (300, 300)
    stp.pp.patches(adata, patch_um=400, patch_px=16, check=False)
    with pytest.raises(ValueError, match=r"expected one number of µm per pixel .*from_tables"):
        stp.pp.image_features(adata, microns_per_pixel={"S1": (3.0, 4.0)}, cache=False)


def test_from_tables_with_two_numbers() -> None:
    image = picture(WIDE)
    positions = pd.DataFrame({"x": [40.0, 80.0], "y": [50.0, 50.0]}, index=["a", "b"])
    adata = stp.io.from_tables(
        None, positions, image, microns_per_pixel=(5.0, 4.0), patient="p", spot_diameter_um=40, check=False
    )
    np.testing.assert_allclose(adata.obsm["spatial"], [[50, 50], [100, 50]])
    assert adata.uns["spatial"]["sample"]["scalefactors"]["spot_diameter_fullres"] == 10
    for wrong in [(1.0, 2.0, 3.0), (1.0, -1.0), (0.5, float("nan"))]:
        with pytest.raises(ValueError, match="expected microns_per_pixel"):
            stp.io.from_tables(None, positions, microns_per_pixel=wrong, patient="p")


def test_pitches_along_both_axes_of_turned_and_mirrored_arrays() -> None:
    row, col = np.mgrid[:7, :9].reshape(2, -1)
    for angle in np.linspace(0, 2 * np.pi, 7):
        for mirror in (1, -1):
            turned = np.column_stack([col * mirror, row]) @ np.array(
                [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
            )
            np.testing.assert_allclose(axis_pitches_px(row, col, turned * (20.0, 24.0)), (20.0, 24.0))
    hexagonal = np.column_stack([col + row % 2 * 0.5, row * np.sqrt(3) / 2]) * 20
    with pytest.raises(ValueError, match="expected"):
        axis_pitches_px(row, 2 * col + row % 2, hexagonal)  # Visium is no stretched square
    sheared = np.column_stack([col + 0.3 * row, row]) * 20.0
    with pytest.raises(ValueError, match="expected a square lattice"):
        axis_pitches_px(row, col, sheared)


def test_errors_name_what_is_missing(tmp_path) -> None:
    root = tmp_path / "st"
    write(root, "S1")
    with pytest.raises(FileNotFoundError, match=r"expected counts .* of S7 .*; found counts of S1"):
        stp.io.read_st(root, ["S7"])
    with pytest.raises(KeyError, match="missing S1"):
        stp.io.read_st(root, patient={"S2": "a"})
    with pytest.raises(FileNotFoundError, match="expected a table of genes"):
        stp.io.read_st(root, genes=root / "none.tsv")
    (root / "S1.tsv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"found counts of none and spots of S1"):
        stp.io.read_st(root)
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        stp.io.read_st(root / "elsewhere")


def test_a_lattice_that_does_not_tell_asks_for_the_scale(tmp_path) -> None:
    write(tmp_path / "st", "S1")
    path = tmp_path / "st" / "S1_spots.tsv"
    table = pd.read_csv(path, sep="\t").iloc[:3]
    table.to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"section 'S1': .*microns_per_pixel="):
        stp.io.read_st(tmp_path / "st", patient="a")
    adata = stp.io.read_st(tmp_path / "st", patient="a", microns_per_pixel=16.0)
    assert adata.n_obs == 2
