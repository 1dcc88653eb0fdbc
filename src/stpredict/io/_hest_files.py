"""Files of HEST-1k and HEST-Bench: what is known of a sample, its stored patches, the splits and lists of genes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import check_columns, damage_named, parse_table, read_json, read_text
from stpredict.core._validate import check_unique, few
from stpredict.io._counts_h5 import check_h5

if TYPE_CHECKING:
    from stpredict.encoders import Encoder

PATCH_UM_PER_PX = 0.5  # at which the patches of all samples are stored
_TABLE = "HEST_v*.csv"
_SPLIT = re.compile(r"(train|test)_(\d+)\.csv")
_STEADY = 2.0  # pixels by which the corner of a patch may differ from where it is expected, by rounding


@dataclass(frozen=True)
class Patches:
    """Stored patches of a sample, as they lie in its file.

    Attributes
    ----------
    path
        The file.
    barcodes
        (n,) names of the spots.
    corners
        (n, 2) x and y of their top left corners, in pixels of the slide.
    side
        Side of a patch in its own pixels.
    """

    path: Path
    barcodes: np.ndarray
    corners: np.ndarray | None
    side: int

    @property
    def side_um(self) -> float:
        """Side in µm."""
        return self.side * PATCH_UM_PER_PX

    def microns_per_pixel(self, centers: np.ndarray) -> float | None:
        """µm per pixel of the slide, from the centers (n, 2) of the patches; `None` where corners do not tell."""
        if self.corners is None:
            return None
        sides = 2 * (np.asarray(centers, dtype=float) - self.corners)
        side = float(np.median(sides))
        if side < 1 or np.abs(sides - side).max() > 2 * _STEADY:
            return None
        return self.side_um / side

    def features(self, encoder: Encoder, batch_size: int, done: Any) -> np.ndarray:
        """Features (n, dim) of all patches, float32, read in batches."""
        import h5py  # type: ignore[import-untyped]

        from stpredict.encoders._resize import resized

        found = np.empty((len(self.barcodes), encoder.dim), dtype=np.float32)
        with damage_named(self.path, "patches"), h5py.File(self.path, "r") as file:
            for start in range(0, len(found), batch_size):
                windows = np.ascontiguousarray(file["img"][start : start + batch_size])
                tiles = resized(windows, encoder.tile_px, encoder.device)
                found[start : start + len(windows)] = encoder(tiles).cpu().numpy()
                done(len(windows))
        return found


def read_patches(path: Path) -> Patches:
    """What the file of stored patches holds, but for the pixels, which are only tried.

    Raises `FileNotFoundError` when there is none, and `ValueError` when it is damaged or holds no square patches in RGB.
    """
    import h5py

    if not path.is_file():
        raise FileNotFoundError(
            f"expected patches at {path}; found none; leave `encoder=` out where they are not needed"
        )
    check_h5(path)
    with damage_named(path, "patches (img, barcode, coords)"), h5py.File(path, "r") as file:
        if missing := [name for name in ("img", "barcode") if name not in file]:
            raise ValueError(f"expected img, barcode and coords in {path}; found {few(file)}, without {few(missing)}")
        images, names = file["img"], np.asarray(file["barcode"][()]).reshape(-1)
        if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3 or images.dtype != np.uint8:
            raise ValueError(
                f"expected patches (n, side, side, 3) of uint8 in {path}; found {images.shape} of {images.dtype}"
            )
        corners = np.asarray(file["coords"][()], dtype=float) if "coords" in file else None
        if len(names) != len(images) or (corners is not None and corners.shape != (len(images), 2)):
            raise ValueError(
                f"expected a barcode and the coords x and y of each patch in {path}; found {len(images)} patches, "
                f"{len(names)} barcodes and coords of shape {None if corners is None else corners.shape}"
            )
        barcodes = [name.decode() if isinstance(name, bytes) else str(name) for name in names.tolist()]
        side = int(images.shape[1])
    check_unique(barcodes, f"barcodes in {path}")
    return Patches(path, np.array(barcodes, dtype=object), corners, side)


def read_facts(root: Path, name: str, given: str | Path | None) -> Mapping[str, Any]:
    """What is known of a sample: of its JSON file, or of the table of all samples; empty where there is neither."""
    places = [root, root.parent] if given is None else [Path(given)]
    for place in places:
        for path in (place / "metadata" / f"{name}.json", place / f"{name}.json"):
            if path.is_file():
                return read_json(path, f"metadata of {name}", gaps=True)
    tables = [table for place in places for table in (sorted(place.glob(_TABLE)) if place.is_dir() else [place])]
    for path in reversed(tables):  # the newest last
        if not path.is_file():
            raise FileNotFoundError(f"expected metadata at {path}; found none; pass HEST's table or folder of metadata")
        table = parse_table(read_text(path, "metadata"), path, "metadata", dtype={"id": str, "patient": str})
        check_columns(table, ("id", "patient"), path)
        rows = table[table["id"] == name]
        if len(rows):
            return {str(k): v for k, v in rows.iloc[0].items() if v == v and v is not None}
    if given is not None:
        raise FileNotFoundError(
            f"expected metadata of {name!r} in {given}; found none; pass HEST's table or folder of it"
        )
    return {}


def read_splits(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Names of the training and of the test samples of each split, in the order of their files; empty without splits."""
    folder = root / "splits"
    if not folder.is_dir():
        return {}
    matches = [match for item in folder.iterdir() if (match := _SPLIT.fullmatch(item.name))]
    found: dict[str, tuple[list[str], list[str]]] = {}
    for number in sorted({int(match[2]) for match in matches}):
        sides = []
        for side in ("train", "test"):
            path = folder / f"{side}_{number}.csv"
            if not path.is_file():
                raise FileNotFoundError(
                    f"expected {path.name} beside the other side of the split in {folder}; found none"
                )
            table = parse_table(read_text(path, "a split"), path, "a split", dtype=str)
            check_columns(table, ("sample_id",), path)
            check_unique(table["sample_id"], f"samples in {path}")
            sides.append([str(name) for name in table["sample_id"]])
        if not all(sides) or set(sides[0]) & set(sides[1]):
            shared = few(sorted(set(sides[0]) & set(sides[1]))) or "none on one side"
            raise ValueError(
                f"expected other samples for test than for training in split {number} of {folder}; found {shared}"
            )
        found[f"split_{number}"] = sides[0], sides[1]
    return found


def read_gene_lists(root: Path) -> dict[str, list[str]]:
    """Lists of genes by the stem of their file, such as `var_50genes`."""
    found = {}
    for path in sorted(root.glob("*genes.json")):
        genes = read_json(path, "a list of genes").get("genes")
        if not isinstance(genes, list) or not genes or not all(isinstance(gene, str) for gene in genes):
            raise ValueError(f"expected a list of names under 'genes' in {path}; found {str(genes)[:40]}")
        check_unique(genes, f"genes in {path}")
        found[path.stem] = genes
    return found
