from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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
