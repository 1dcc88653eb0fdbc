"""Kinds of files of further platforms: arrays before Visium, Xenium, HEST."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
from hest_files import write_bench, write_hest
from PIL import Image

import stpredict as stp

from ._kind import Answer, Kind
from ._tables import _write_mtx, content, picture

WARM = ("h5py", "pyarrow.parquet")
_CELLS = [f"cell{i}-1" for i in range(30)]


def _write_st(folder: Path) -> None:
    """A section in one folder, in pixels that are not square."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[2:7, 2:8].reshape(2, -1)
    spots = pd.DataFrame(
        {"x": x, "y": y, "new_x": x, "new_y": y, "pixel_x": x * 12.0, "pixel_y": y * 14.0, "selected": 1}
    )
    counts = pd.DataFrame(
        rng.poisson(2, (len(x), 3)), [f"{a}x{b}" for a, b in zip(x, y, strict=True)], ["E1", "E2", "E3"]
    )
    with gzip.open(folder / "S1.tsv.gz", "wt") as handle:
        counts.to_csv(handle, sep="\t")
    spots.to_csv(folder / "S1_spots.tsv", sep="\t", index=False)
    (folder / "genes.tsv").write_text("gene_id\tgene_name\nE1\tActb\nE2\tGnas\n")
    Image.fromarray(picture()).save(folder / "S1.jpg")


def _write_xenium(folder: Path) -> None:
    """A run with counts as mtx, cells as csv, and an aligned image."""
    rng = np.random.default_rng(0)
    _write_mtx(folder / "cell_feature_matrix", _CELLS)
    (folder / "experiment.xenium").write_text(json.dumps({"run_name": "r", "pixel_size": 0.2125}))
    cells = pd.DataFrame(
        {"cell_id": _CELLS, "x_centroid": rng.uniform(4, 14, 30), "y_centroid": rng.uniform(4, 14, 30)}
    )
    cells["cell_area"] = 60.0
    cells.to_csv(folder / "cells.csv", index=False)
    np.savetxt(folder / "S_he_imagealignment.csv", [[0.9, 0.01, 1], [-0.01, 0.9, 2], [0, 0, 1]], delimiter=",")
    Image.fromarray(picture()).save(folder / "S_he_image.tif")


def _read_xenium(folder: Path) -> Answer:
    return content(stp.io.read_xenium(folder, "S", "P", check=False))


def _read_hest(folder: Path) -> Answer:
    return content(stp.io.read_hest(folder, "T1", patient={"T1": "P"}))


def _write_task(folder: Path) -> None:
    write_bench(folder / "IDC")


def _read_task(folder: Path) -> Answer:
    task = stp.io.read_hest(folder / "IDC", ["A", "B"], patient=str, microns_per_pixel=0.25)
    return content(task) | {fold.name: fold.test for fold in stp.cohorts.recorded_folds(task)}


KINDS = (
    Kind("ST", _write_st, lambda f: content(stp.io.read_st(f, patient="P")), ("*.tsv", "*.gz"), 100),
    Kind("Xenium", _write_xenium, _read_xenium, ("*.csv", "*.xenium", "cell_feature_matrix/*"), 100),
    Kind("HEST-1k", write_hest, _read_hest, ("metadata/T1.json", "st/T1.h5ad"), 6),
    Kind("HEST-Bench", _write_task, _read_task, ("IDC/splits/*", "IDC/*.json"), 3),
)
