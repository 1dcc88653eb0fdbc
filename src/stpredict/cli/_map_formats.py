"""Maps of slides in files: the store itself, and what is made of it for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cli._objects import write_h5ad
from stpredict.core._atomic import new_file

if TYPE_CHECKING:
    from anndata import AnnData

_ENDS = {"h5ad": ".h5ad", "geotiff": ".tif", "ome-tiff": ".ome.tif"}


def write_map(table: AnnData, key: str, place: Path, digest: str) -> None:
    """Write the prediction of a table of tiles as a map that :func:`stpredict.io.read_map` reads.

    What is no matrix of genes or values (classes, a risk) is written as an AnnData without the features.

    Parameters
    ----------
    table
        Tiles with a prediction.
    key
        Its slot.
    place
        Path of the map.
    digest
        Digest of all that it was made of.
    """
    from anndata import AnnData

    from stpredict.io import write_zarr
    from stpredict.slots._keys import Key
    from stpredict.slots._prediction import NAMES, prediction_frame
    from stpredict.slots._provenance import read_record
    from stpredict.tl.maps._map import gene_chunks
    from stpredict.tl.maps._map_store import MapStore

    record = read_record(table, key) or {}
    names = next((what for what in ("genes", "values") if what in record), None)
    if names is None:
        slots = {name: table.obsm[name] for name in (Key.SPATIAL, key, Key.std(key)) if name in table.obsm}
        write_zarr(AnnData(obs=table.obs, obsm=slots, uns=dict(table.uns)), place)
        return
    frame = prediction_frame(table, key)
    spread = prediction_frame(table, Key.std(key)).to_numpy() if Key.std(key) in table.obsm else None
    about = {name: value for name, value in record.items() if name not in (*NAMES, "panel_key")} | {"names": names}
    tiles = AnnData(
        obs=table.obs.drop(columns=Key.panel(key)), obsm={Key.SPATIAL: table.obsm[Key.SPATIAL]}, uns=dict(table.uns)
    )
    tiles.uns[Key.UNS] = {name: value for name, value in table.uns[Key.UNS].items() if not name.startswith(key)}
    chunks = gene_chunks(frame.shape[1], table.n_obs)
    with MapStore.open(
        place, digest, tiles, list(frame.columns), chunks, {}, std=spread is not None, record=about
    ) as store:
        if not store.complete:
            for genes in chunks:
                store.write(genes, frame.to_numpy()[:, genes], None if spread is None else spread[:, genes])
            store.finish()


def read_result(place: Path, genes: Sequence[str] | None = None) -> AnnData:
    """Read what `stpredict predict` wrote: a map, or some genes of one, or sections."""
    import anndata

    from stpredict.io import read_map
    from stpredict.io._read_map import mark_of

    return anndata.read_zarr(place) if mark_of(place) is None else read_map(place, genes)


def beside(place: Path, kind: str) -> Path:
    """Path of a file beside a map."""
    return place.with_name(place.name.removesuffix(".zarr") + _ENDS[kind])


def is_beside(place: Path, kind: str, genes: Sequence[str]) -> bool:
    """Whether a map lies beside its store in another format, and, as a picture, with these genes."""
    path = beside(place, kind)
    return path.is_file() and (kind == "h5ad" or _names_in(path) == list(genes))


def _names_in(path: Path) -> list[str] | None:
    """Genes of a TIFF of ours; `None` where it is none."""
    import re
    from xml.sax.saxutils import unescape

    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            text = file.ome_metadata or file.pages.first.tags.valueof(42112) or ""
    except (OSError, ValueError, IndexError, KeyError, TypeError, tifffile.TiffFileError):
        return None
    pattern = r'<Channel [^>]*Name="(.*?)"' if "<OME" in text else r'role="description">(.*?)</Item>'
    return [unescape(name, {"&quot;": '"', "&apos;": "'"}) for name in re.findall(pattern, text)]


def write_beside(place: Path, kind: str, genes: Sequence[str]) -> None:
    """Write a map, or some of its genes, in another format beside it, at once; nothing where it is there."""
    path = beside(place, kind)
    if is_beside(place, kind, genes):
        return
    if kind == "h5ad":
        write_h5ad(read_result(place), path)
        return
    adata = read_result(place, genes)
    image, names = _raster(adata)
    with new_file(path) as fresh:
        (_geotiff if kind == "geotiff" else _ome_tiff)(fresh, image, names, adata.uns["stpredict"]["shell"])


def _raster(adata: AnnData) -> tuple[np.ndarray, list[str]]:
    """Image (n_genes, rows, columns) of a map, one pixel per tile from the top left corner of the slide; NaN elsewhere."""
    from stpredict import get

    if "predicted" not in adata.obsm:
        raise ValueError("expected a map of genes or values for a TIFF; found classes or a risk; leave out --also")
    frame = get.predicted(adata).to_df()
    row, column = (adata.obs[name].to_numpy() for name in ("array_row", "array_col"))
    image = np.full((frame.shape[1], int(row.max()) + 1, int(column.max()) + 1), np.nan, dtype=np.float32)
    image[:, row, column] = frame.to_numpy().T
    return image, list(frame.columns)


def _geotiff(path: Path, image: np.ndarray, names: Sequence[str], shell: dict[str, Any]) -> None:
    """A band per gene. Coordinates are pixels of the slide, y upward, as programs for maps show pictures without any."""
    from xml.sax.saxutils import escape

    import tifffile

    step = float(shell["stride_px"])
    keys = (1, 1, 0, 2, 1024, 0, 1, 32767, 1025, 0, 1, 1)  # a system of the user's own; a pixel is an area
    bands = "".join(
        f'<Item name="DESCRIPTION" sample="{number}" role="description">{escape(name)}</Item>'
        for number, name in enumerate(names)
    )
    tags = [
        (33550, 12, 3, (step, step, 0.0), True),
        (33922, 12, 6, (0.0,) * 6, True),
        (34735, 3, len(keys), keys, True),
        (42112, 2, 0, f"<GDALMetadata>{bands}</GDALMetadata>", True),
        (42113, 2, 0, "nan", True),
    ]
    tifffile.imwrite(
        path,
        image,
        photometric="minisblack",
        planarconfig="separate" if len(names) > 1 else None,
        compression="adobe_deflate",
        extratags=tags,
        metadata=None,
    )


def _ome_tiff(path: Path, image: np.ndarray, names: Sequence[str], shell: dict[str, Any]) -> None:
    """A channel per gene, with the size of a pixel in µm."""
    import tifffile

    um = float(shell["stride_px"]) * float(shell["microns_per_pixel"])
    about = {
        "axes": "CYX", "Channel": {"Name": list(names)}, "PhysicalSizeX": um, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": um,
        "PhysicalSizeYUnit": "µm",
    }  # fmt: skip
    tifffile.imwrite(path, image, ome=True, photometric="minisblack", compression="adobe_deflate", metadata=about)
