"""Kinds of tables and counts: her2st, Space Ranger's output, gene positions, gene sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image
from scipy import io, sparse

import stpredict as stp

from ._kind import Answer, Kind

WARM = ("h5py", "pyarrow.parquet")  # modules that are imported before workers are forked
GENES = ["ERBB2", "GNAS", "ACTB", "CD74"]
_rng = np.random.default_rng


def content(adata: AnnData) -> Answer:
    """Everything of a table that its user may use."""
    x = adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X
    return {
        "X": np.asarray(x) if x is not None else "none",
        "obs_names": list(adata.obs_names),
        "var_names": list(adata.var_names),
        "var": adata.var.to_csv(),
        **{f"obs {name}": _column(adata.obs[name]) for name in adata.obs},
        **{f"obsm {name}": np.asarray(value) for name, value in adata.obsm.items()},
        **{f"spatial {name}": _sections(entry) for name, entry in adata.uns.get("spatial", {}).items()},
    }


def _column(column: pd.Series) -> Any:
    return column.to_numpy() if column.dtype.kind in "iufb" else column.astype(object).to_numpy()


def _sections(entry: Any) -> dict[str, Any]:
    return {
        "images": {name: np.asarray(image) for name, image in entry.get("images", {}).items()},
        "scalefactors": dict(entry.get("scalefactors", {})),
    }


def picture(height: int = 100, width: int = 130) -> np.ndarray:
    """Smooth colors, some tissue on white."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([200 - x % 50, 90 + y % 60, 180 + (x + y) % 40], axis=2)
    image[(x - width / 2) ** 2 / width**2 + (y - height / 2) ** 2 / height**2 > 0.2] = 245
    return image.astype(np.uint8)


def write_her2st(folder: Path) -> None:
    """A section with counts, spots, labels and a picture."""
    rng = _rng(0)
    for name in ("counts", "spots", "labels", "images"):
        (folder / name).mkdir()
    y, x = np.mgrid[2:7, 2:8].reshape(2, -1)
    new = np.column_stack([x, y]) + rng.normal(scale=0.03, size=(len(x), 2))
    spots = pd.DataFrame({"x": x, "y": y, "new_x": new[:, 0].round(3), "new_y": new[:, 1].round(3)})
    spots[["pixel_x", "pixel_y"]] = np.column_stack([x, y]) * 14.5
    spots["selected"] = 1
    counts = pd.DataFrame(rng.poisson(2, (len(x), 4)), [f"{a}x{b}" for a, b in zip(x, y, strict=True)], GENES)
    labels = pd.DataFrame(
        {"x": spots["new_x"], "y": spots["new_y"], "label": np.where(x < 5, "breast glands", "cancer")}
    )
    with gzip.open(folder / "counts" / "A1.tsv.gz", "wt") as handle:
        counts.to_csv(handle, sep="\t")
    spots.to_csv(folder / "spots" / "A1_selection.tsv", sep="\t", index=False)
    labels.to_csv(folder / "labels" / "A1_labeled_coordinates.tsv", sep="\t", index=False)
    Image.fromarray(picture()).save(folder / "images" / "A1.jpg")


def _positions() -> pd.DataFrame:
    row, step = np.mgrid[:6, :5].reshape(2, -1)
    col = 2 * step + row % 2
    table = pd.DataFrame({"barcode": [f"ACGT{i:02d}-1" for i in range(len(row))], "in_tissue": 1})
    table["array_row"], table["array_col"] = row, col
    table["pxl_row_in_fullres"] = 20 + row * 10 * np.sqrt(3) / 2
    table["pxl_col_in_fullres"] = 40 + col * 5.0
    return table


def _write_h5(path: Path, barcodes: list[str]) -> None:
    import h5py

    matrix = sparse.csc_matrix(_rng(0).poisson(2, (len(GENES), len(barcodes))))
    n = len(GENES)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group.create_dataset(name, data=getattr(matrix, name).astype(np.int32), chunks=(20,), compression="gzip")
        group["shape"], group["barcodes"] = np.array(matrix.shape, np.int32), np.array(barcodes, "S")
        group["features/id"] = np.array([f"ENSG{i}" for i in range(n)], "S")
        group["features/name"], group["features/genome"] = np.array(GENES, "S"), np.array(["GRCh38"] * n, "S")
        group["features/feature_type"] = np.array(["Gene Expression"] * n, "S")


def _write_mtx(folder: Path, barcodes: list[str]) -> None:
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        io.mmwrite(file, sparse.csc_matrix(_rng(0).poisson(2, (len(GENES), len(barcodes)))))
    with gzip.open(folder / "features.tsv.gz", "wt") as file:
        file.writelines(f"ENSG{i}\t{name}\tGene Expression\n" for i, name in enumerate(GENES))
    (folder / "barcodes.tsv").write_text("".join(f"{name}\n" for name in barcodes))


def write_visium(folder: Path, counts: str = "mtx", positions: str = "csv") -> None:
    """Output of Space Ranger: spots, or cells with their outlines."""
    (folder / "spatial").mkdir()
    table = _positions()
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 6.5, "fiducial_diameter_fullres": 9.0}
    name = "filtered_feature_bc_matrix"
    if positions == "cells":
        table["barcode"] = [f"cellid_{i:09d}-1" for i in range(len(table))]
        features = [
            {
                "type": "Feature",
                "properties": {"cell_id": i},
                "geometry": {"type": "Polygon", "coordinates": [[[i, 0], [i + 2, 0], [i + 2, 2], [i, 2], [i, 0]]]},
            }
            for i in range(len(table))
        ]
        (folder / "cell_segmentations.geojson").write_text(
            json.dumps({"type": "FeatureCollection", "features": features})
        )
        factors, name = {"microns_per_pixel": 0.5}, "filtered_feature_cell_matrix"
    elif positions == "parquet":
        table.to_parquet(folder / "spatial" / "tissue_positions.parquet")
    else:
        table.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    Image.fromarray(picture(60, 70)).save(folder / "spatial" / "tissue_hires_image.png")
    if counts == "h5":
        _write_h5(folder / f"{name}.h5", list(table["barcode"]))
    else:
        _write_mtx(folder / name, list(table["barcode"]))


def read_visium(folder: Path) -> Answer:
    return content(stp.io.read_visium(folder, sample="V1"))


def _write_gtf(folder: Path) -> None:
    lines = "".join(
        f'{1 + i % 3}\thavana\t{what}\t{1000 * i + 1}\t{1000 * i + 500}\t.\t+\t.\tgene_id "E{i}"; gene_name "{GENES[i]}";\n'
        for i in range(len(GENES))
        for what in ("gene", "transcript", "exon")
    )
    (folder / "genes.gtf").write_text("#!genome-build GRCh38\n" + lines)
    with gzip.open(folder / "packed.gtf.gz", "wt") as file:
        file.write(lines)
    table = pd.DataFrame({"chromosome": ["1", "2", "3", "X"], "start": range(4), "end": range(10, 14)}, GENES)
    table.to_csv(folder / "positions.csv")


def _read_gtf(folder: Path) -> Answer:
    from stpredict.tl.biology._gene_positions import gene_positions

    adata = AnnData(var=pd.DataFrame(index=GENES))
    found = {}
    for name in ("genes.gtf", "packed.gtf.gz", "positions.csv"):
        table, _ = gene_positions(adata, folder / name)
        # Genes that a file does not know have no position, which is documented.
        known = table.dropna().astype({"start": int, "end": int})
        found[name] = {"genes": list(known.index), "places": known.to_numpy(dtype=object)}
    return found


def _write_gmt(folder: Path) -> None:
    (folder / "sets.gmt").write_text(
        "growth\thttps://x\tERBB2\tGNAS,1.0\nskeleton\tof cells\tACTB\nimmune\t\tCD74\tACTB\n"
    )


def _read_gmt(folder: Path) -> Answer:
    from stpredict.core._gmt import read_gmt

    return read_gmt(folder / "sets.gmt")


def _write_slide_table(folder: Path) -> None:
    (folder / "slides.csv").write_text(
        'path,sample,patient,microns_per_pixel\na.svs,biopsy 1,"Doe, J.",0.25\n../b.tif,,P2,\n/data/c.ndpi,c,,0.5\n'
    )


def _read_slide_table(folder: Path) -> Answer:
    from stpredict.cli._items import find_items

    items = find_items(folder / "slides.csv")
    return {
        item.name: [str(item.path).removeprefix(str(folder)), item.patient, item.microns_per_pixel] for item in items
    }


KINDS = (
    Kind("her2st", write_her2st, lambda f: content(stp.io.read_her2st(f)), ("counts/*", "spots/*", "labels/*"), 150),
    Kind("Visium mtx", write_visium, read_visium, ("filtered*/*",), 150),
    Kind("Visium h5", lambda f: write_visium(f, "h5"), read_visium, ("*.h5",), 30),
    Kind("Visium csv", write_visium, read_visium, ("spatial/*.csv",), 110),
    Kind("Visium parquet", lambda f: write_visium(f, positions="parquet"), read_visium, ("spatial/*.parquet",), 80),
    Kind("Visium json", write_visium, read_visium, ("spatial/*.json",), 60),
    Kind(
        "Visium cells", lambda f: write_visium(f, positions="cells"), read_visium, ("*.geojson", "spatial/*.json"), 60
    ),
    Kind("Visium png", write_visium, read_visium, ("spatial/*.png",), 60),
    Kind("gene positions", _write_gtf, _read_gtf, ("*",), 80),
    Kind("gene sets", _write_gmt, _read_gmt, ("*",), 60),
    Kind("table of slides", _write_slide_table, _read_slide_table, ("*",), 80),
)
