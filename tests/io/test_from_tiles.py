from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import stpredict as stp
from stpredict.io._from_tiles import from_tiles
from stpredict.slots._provenance import read_record

SIDE = 56


def save(folder: Path, positions: list[tuple[int, int]], side: int = SIDE, seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for x, y in positions:
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(folder / f"x{x}_y{y}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two slides: three tiles that touch, and two that are two steps apart."""
    save(tmp_path / "tiles" / "S-1-A", [(0, 0), (56, 0), (56, 56)])
    save(tmp_path / "tiles" / "S-2-A", [(1120, 560), (1120, 672)], seed=1)
    (tmp_path / "tiles" / "expression.csv").write_text("no image")
    return tmp_path / "tiles"


def test_slots(folder: Path, tmp_path: Path) -> None:
    tiles = from_tiles(folder, microns_per_pixel=0.5, patient=lambda name: name[:3])
    assert tiles.obs_names.tolist() == ["S-1-A_x0_y0", "S-1-A_x56_y0", "S-1-A_x56_y56", "S-2-A_x1120_y560", "S-2-A_x1120_y672"]  # fmt: skip
    assert tiles.obs["sample"].tolist() == ["S-1-A"] * 3 + ["S-2-A"] * 2
    assert tiles.obs["patient"].tolist() == ["S-1"] * 3 + ["S-2"] * 2
    assert tiles.obs[["array_row", "array_col"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 1], [0, 0], [2, 0]]
    assert tiles.obsm["spatial"][3].tolist() == [1148.0, 588.0]
    assert tiles.obsm["X_color-texture"].dtype == np.float32
    record = read_record(tiles, "X_color-texture")
    assert (record["tile_um"], record["dim"], record["context"]) == (28.0, 153, [1.0])
    assert record["microns_per_pixel"] == {"S-1-A": 0.5, "S-2-A": 0.5}
    scale = tiles.uns["spatial"]["S-1-A"]["scalefactors"]
    assert (scale["spot_diameter_fullres"], scale["microns_per_pixel"]) == (56.0, 0.5)
    tiles.write_h5ad(tmp_path / "tiles.h5ad")
    assert stp.pp.bag(tiles, n_tokens=4).obsm["X_color-texture_bag_size"].sum(axis=1).tolist() == [3, 2]


def test_features_are_those_of_the_section_the_tiles_were_cut_from(tmp_path: Path) -> None:
    """As with `pp.image_features` on the whole image; so is the thumbnail."""
    import anndata as ad

    image = np.random.default_rng(2).integers(0, 255, (2 * SIDE, 3 * SIDE, 3), dtype=np.uint8)
    folder = tmp_path / "slide"
    folder.mkdir()
    corners = [(x, y) for y in (0, SIDE) for x in (0, SIDE, 2 * SIDE)]
    for x, y in corners:
        Image.fromarray(image[y : y + SIDE, x : x + SIDE]).save(folder / f"x{x}_y{y}.png")
    tiles = from_tiles(folder, microns_per_pixel=2.0, batch_size=4)
    section = ad.AnnData(obs=pd.DataFrame({"sample": "slide"}, index=[str(i) for i in range(6)]))
    section.obsm["spatial"] = np.array(corners) + SIDE / 2
    stp.pp.image_features(section, image=image, microns_per_pixel=2.0, context=(1,), cache=False)
    np.testing.assert_allclose(tiles.obsm["X_color-texture"], section.obsm["X_color-texture"], rtol=1e-5, atol=1e-5)
    theirs, ours = (read_record(a, "X_color-texture") for a in (section, tiles))
    assert {**theirs, "microns_per_pixel": 0} == {**ours, "microns_per_pixel": 0}
    np.testing.assert_array_equal(tiles.uns["spatial"]["slide"]["images"]["hires"], image)


def test_tiles_saved_at_a_lower_resolution(tmp_path: Path) -> None:
    save(tmp_path / "s", [(0, 0), (0, 112), (224, 112)])
    tiles = from_tiles(tmp_path / "s", microns_per_pixel=0.25, downsample=2, thumbnail_px=168)
    assert tiles.obs[["array_row", "array_col"]].to_numpy().tolist() == [[0, 0], [1, 0], [1, 2]]
    assert tiles.obsm["spatial"][0].tolist() == [56.0, 56.0]
    assert read_record(tiles, "X_color-texture")["tile_um"] == 28.0
    picture = tiles.uns["spatial"]["s"]["images"]["hires"]
    assert picture.shape == (112, 168, 3)
    assert (picture[:56, 56:] == 255).all()
    assert picture[56:, 112:].std() > 10


def test_positions_that_overlap_or_follow_no_lattice(tmp_path: Path) -> None:
    save(tmp_path / "half", [(0, 0), (28, 0), (28, 28)])
    assert from_tiles(tmp_path / "half", microns_per_pixel=1).obs["array_col"].tolist() == [0, 1, 1]
    save(tmp_path / "free", [(0, 0), (61, 3), (150, 7)])
    assert "array_row" not in from_tiles(tmp_path / "free", microns_per_pixel=1).obs


def test_a_table_of_tiles(folder: Path) -> None:
    expected = from_tiles(folder, microns_per_pixel=0.5)
    paths = sorted(folder.glob("*/*.png"))
    corner = [path.stem[1:].split("_y") for path in paths]
    table = pd.DataFrame({"path": paths, "x": [float(x) for x, _ in corner], "y": [int(y) for _, y in corner]})
    table["sample"], table["patient"] = [path.parent.name for path in paths], "me"
    tiles = from_tiles(table, microns_per_pixel=0.5)
    assert set(tiles.obs["patient"]) == {"me"}
    np.testing.assert_array_equal(tiles[expected.obs_names].obsm["X_color-texture"], expected.obsm["X_color-texture"])
    assert "patient" not in expected.obs
    with pytest.raises(KeyError, match="missing path"):
        from_tiles(table.drop(columns="path"), microns_per_pixel=0.5)
    with pytest.raises(ValueError, match="expected finite numbers in the column 'x'"):
        from_tiles(table.assign(x=np.nan), microns_per_pixel=0.5)
    with pytest.raises(ValueError, match="expected unique positions"):
        from_tiles(table.assign(x=0, y=0), microns_per_pixel=0.5)
    with pytest.raises(FileNotFoundError):
        from_tiles(table.assign(path="none.png"), microns_per_pixel=0.5)


def test_other_file_names(tmp_path: Path) -> None:
    save(tmp_path / "s", [(0, 0)])
    (tmp_path / "s" / "x0_y0.png").rename(tmp_path / "s" / "slide (512, 1024).png")
    with pytest.raises(ValueError, match=r"found slide \(512, 1024\).png; pass `pattern=`"):
        from_tiles(tmp_path / "s", microns_per_pixel=0.5)
    tiles = from_tiles(tmp_path / "s", microns_per_pixel=0.5, pattern=r"\((?P<x>\d+), (?P<y>\d+)\)")
    assert tiles.obsm["spatial"].tolist() == [[540.0, 1052.0]]
    with pytest.raises(ValueError, match="expected the groups"):
        from_tiles(tmp_path / "s", microns_per_pixel=0.5, pattern=r"(\d+)")


def test_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a folder"):
        from_tiles(tmp_path / "none", microns_per_pixel=0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected images"):
        from_tiles(tmp_path / "empty", microns_per_pixel=0.5)
    with pytest.raises(ValueError, match="microns_per_pixel"):
        from_tiles(folder, microns_per_pixel=0)
    with pytest.raises(KeyError, match="missing S-2-A"):
        from_tiles(folder, microns_per_pixel=0.5, patient={"S-1-A": "P"})
    save(folder / "S-3", [(0, 0)], side=40)
    with pytest.raises(ValueError, match="tiles of one size; found 56 and 40"):
        from_tiles(folder, microns_per_pixel=0.5)
    broken: Any = folder / "S-3" / "x0_y0.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match="truncated or damaged"):
        from_tiles(folder, microns_per_pixel=0.5)
    Image.new("RGB", (56, 40)).save(broken)
    with pytest.raises(ValueError, match="expected a square tile"):
        from_tiles(folder, microns_per_pixel=0.5)
