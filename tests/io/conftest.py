from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import io as sio
from scipy import sparse

from stpredict.io._image import SectionImage

PITCH = 20.0
SIZE = (200, 260)  # height, width


def her2st_section(seed: int, genes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Counts, spot table and labels of one section, in the format of the original files."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[2:8, 2:10].reshape(2, -1)
    new = np.column_stack([x, y]) + rng.normal(scale=0.03, size=(len(x), 2)).round(3)
    spots = pd.DataFrame({"x": x, "y": y, "new_x": new[:, 0].round(3), "new_y": new[:, 1].round(3)})
    spots[["pixel_x", "pixel_y"]] = np.column_stack([x, y]) * PITCH
    spots["selected"] = 1
    index = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    counts = pd.DataFrame(rng.poisson(2, (len(x), len(genes))), index=index, columns=genes)
    labels = pd.DataFrame(
        {"x": spots["new_x"], "y": spots["new_y"], "label": np.where(x < 6, "breast glands", "invasive cancer")}
    )
    order = rng.permutation(len(x))
    return counts.iloc[order].iloc[1:], spots, labels.iloc[rng.permutation(len(x))]


@pytest.fixture
def write_her2st(tmp_path: Path) -> Callable[..., Path]:
    """Writer of a folder with sections A1 (image, no labels), A2 (labels, no image) and B10 (neither)."""

    def write(original: bool = False) -> Path:
        root = tmp_path / "her2st"
        base = root / "data" if original else root
        names = (
            ("ST-cnts", "ST-spotfiles", "ST-pat/lbl", "ST-imgs")
            if original
            else ("counts", "spots", "labels", "images")
        )
        counts_dir, spots_dir, labels_dir, images_dir = (base / name for name in names)
        for folder in (counts_dir, spots_dir, labels_dir, images_dir):
            folder.mkdir(parents=True)
        genes = {"A1": ["ERBB2", "GNAS", "ACTB"], "A2": ["GNAS", "CD74"], "B10": ["ACTB"]}
        for seed, (name, columns) in enumerate(genes.items()):
            counts, spots, labels = her2st_section(seed, columns)
            if name == "B10":
                spots = spots.drop(columns="selected")
            with gzip.open(counts_dir / f"{name}.tsv.gz", "wt") as handle:
                counts.to_csv(handle, sep="\t")
            spots.to_csv(spots_dir / f"{name}_selection.tsv", sep="\t", index=False)
            if name == "A2":
                labels = pd.concat([labels, pd.DataFrame({"x": [np.nan], "y": [np.nan], "label": ["breast glands"]})])
                labels.to_csv(labels_dir / f"{name}_labeled_coordinates.tsv", sep="\t", index=False)
        picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        where = images_dir / "A" / "A1" / "HE_slide.jpg" if original else images_dir / "A1.jpg"
        where.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(where)
        return root

    return write


HEXAGONAL = 10.0  # pixels between neighbors


def visium_positions() -> pd.DataFrame:
    """Positions of 48 spots, in the columns of Space Ranger."""
    row, step = np.mgrid[:8, :6].reshape(2, -1)
    col = 2 * step + row % 2
    table = pd.DataFrame({"barcode": [f"ACGT{i:02d}-1" for i in range(len(row))], "in_tissue": 1})
    table["array_row"], table["array_col"] = row, col
    table["pxl_row_in_fullres"] = 20 + row * HEXAGONAL * np.sqrt(3) / 2
    table["pxl_col_in_fullres"] = 40 + col * HEXAGONAL / 2
    return table


def write_counts(path: Path, barcodes: list[str], genes: list[str], /, **changes: object) -> np.ndarray:
    """Write a 10x matrix, h5 or a folder of mtx files by the name of the path; entries of the h5 file can be changed."""
    counts = np.random.default_rng(0).poisson(2, (len(genes), len(barcodes)))
    matrix = sparse.csc_matrix(counts)
    if path.suffix != ".h5":
        path.mkdir(parents=True)
        sio.mmwrite(path / "matrix.mtx", matrix)
        (path / "features.tsv").write_text(
            "".join(f"ENSG{i}\t{name}\tGene Expression\n" for i, name in enumerate(genes))
        )
        (path / "barcodes.tsv").write_text("".join(f"{name}\n" for name in barcodes))
        return counts.T
    entries = {name: getattr(matrix, name).astype(np.int32) for name in ("data", "indices", "indptr")}
    entries |= {"shape": np.array(matrix.shape, np.int32), "barcodes": np.array(barcodes, "S")}
    entries |= {"features/id": np.array([f"ENSG{i}" for i in range(len(genes))], "S")}
    entries |= {"features/name": np.array(genes, "S"), "features/genome": np.array(["GRCh38"] * len(genes), "S")}
    entries |= {"features/feature_type": np.array(["Gene Expression"] * len(genes), "S")} | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in entries.items():
            if values is not None:
                file[f"matrix/{name}"] = values
    return counts.T


@pytest.fixture
def visium(tmp_path: Path) -> Callable[..., Path]:
    """Writer of the output of Space Ranger; its parts can be replaced afterwards."""

    def write(kind: str = "mtx", barcodes: list[str] | None = None, **changes: object) -> Path:
        root = tmp_path / "V1"
        (root / "spatial").mkdir(parents=True)
        table = visium_positions()
        table.to_csv(root / "spatial" / "tissue_positions.csv", index=False)
        (root / "spatial" / "scalefactors_json.json").write_text(json.dumps({"spot_diameter_fullres": 6.5}))
        name = "filtered_feature_bc_matrix" + (".h5" if kind == "h5" else "")
        write_counts(root / name, list(table["barcode"]) if barcodes is None else barcodes, list("ABCDE"), **changes)
        return root

    return write


@pytest.fixture
def counts_writer() -> Callable[..., np.ndarray]:
    return write_counts


@pytest.fixture
def spots() -> pd.DataFrame:
    return visium_positions()


@pytest.fixture
def pixels() -> np.ndarray:
    """Picture of 60 × 90 smooth colors, so that JPEG keeps them."""
    y, x = np.mgrid[:60, :90]
    return np.stack([80 + x, 60 + y, 200 - x], axis=2).astype(np.uint8)


@pytest.fixture
def shown() -> Callable[[object], np.ndarray]:
    """What the package sees of a picture, the same whatever is cut and however it is made smaller."""

    def read(source: object) -> np.ndarray:
        image = SectionImage(source)
        band = image.band(0, image.height)
        assert band.dtype == np.uint8
        assert band.shape == (image.height, image.width, 3)
        np.testing.assert_array_equal(SectionImage(source).band(7, 20), band[7:20])
        small, factor = SectionImage(source).thumbnail(45)
        assert factor == 45 / max(band.shape)
        assert np.abs(small.mean(axis=(0, 1)) - band.mean(axis=(0, 1))).max() < 3
        return band

    return read
