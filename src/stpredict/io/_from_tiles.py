"""Tiles that were saved as image files, with their features."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_finite, check_positive, check_unique, few
from stpredict.io._pixels import Depth
from stpredict.io._section import THUMBNAIL_PX, check_folder, is_hidden, note_patient, record_reading
from stpredict.io._section_image import SectionImage
from stpredict.slots._content import seal_features
from stpredict.slots._keys import Key, escaped
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from anndata import AnnData

    from stpredict.encoders import Encoder

_SUFFIXES = {".jpeg", ".jpg", ".png", ".tif", ".tiff"}
_PATTERN = r"x(?P<x>\d+)_y(?P<y>\d+)"
_REGULAR = 4  # steps within one tile beyond which positions follow no lattice


def from_tiles(
    source: str | Path | pd.DataFrame,
    encoder: str | Encoder = "color-texture",
    *,
    microns_per_pixel: float,
    downsample: float = 1.0,
    patient: Mapping[str, str] | Callable[[str], str] | None = None,
    pattern: str = _PATTERN,
    weights: str | Path | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    progress: bool | None = None,
) -> AnnData:
    """Read slides that come as folders of tile images, and compute the features of every tile.

    Whole slides are often shared as square tiles, one folder per slide, with positions in the names of the files. The
    slide itself is not needed; tiles are read in batches, resized to the input of the encoder, and not kept.

    Parameters
    ----------
    source
        Folder with one folder of images per slide, named after the slide; folder with the images of a single slide; or
        a DataFrame with the columns `path`, `sample`, `x`, `y` and optionally `patient`, one row per tile.
    encoder
        Name of an encoder of :func:`stpredict.encoders.list_encoders`, or an encoder of
        :func:`stpredict.encoders.get_encoder`.
    microns_per_pixel
        µm per full-resolution pixel of the slides. File names do not say it, but the size of the nuclei does: at 0.25
        (scanned at 40x) most are 25 to 50 pixels wide, at 0.5 half as wide.
    downsample
        Full-resolution pixels per pixel of a tile image, for tiles that were saved at a lower resolution. Positions are
        in full-resolution pixels in any case.
    patient
        Patient of each slide, as a mapping or a function of its name (`lambda name: name[:12]` for TCGA barcodes, `str`
        where every slide is a patient of its own). When `None`, `obs["patient"]` is left out, with a note, since a guess
        would break splits by patient: :func:`stpredict.pp.bag` then asks for it.
    pattern
        Regular expression with the groups `x` and `y`, the position of the top left corner, for the name of a file.
    weights
        Weight file of the encoder; the published weights, which are downloaded, when `None`.
    batch_size
        Number of tiles read and encoded at once.
    device
        Device to run the encoder on; `settings.device` when `None`.
    thumbnail_px
        Longest side in pixels of the picture of each slide that is put together from its tiles.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.

    Returns
    -------
    AnnData of the tiles of all slides, without genes, for :func:`stpredict.pp.bag`, with

    - `obs["sample"]`, `obs["patient"]` where known, and `obs["array_row"]`, `obs["array_col"]`, counted from the first
      tile of a slide, where the positions follow a lattice
    - `obsm["spatial"]`: centers (x, y) in full-resolution pixels
    - `obsm["X_{encoder}"]`: features, float32
    - `uns["spatial"][sample]`: thumbnail `hires`, `tissue_hires_scalef`, `spot_diameter_fullres` (the side of a tile),
      `microns_per_pixel`
    - `uns["stpredict"]["X_{encoder}"]`: as written by :func:`stpredict.pp.image_features`

    Raises
    ------
    FileNotFoundError
        When the folder or an image is missing, or weights are needed and neither given nor reachable.
    KeyError
        When columns of the DataFrame or patients are missing.
    ValueError
        When there are no images, names do not match the pattern, two tiles of a slide have one position, images are not
        square, differ in size or are damaged, or features are not finite.
    RuntimeError
        When the weights of the encoder are gated.

    Examples
    --------
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> import stpredict as stp
    >>> for name in ["x0_y0", "x224_y0", "x224_y224"]:
    ...     Path("tiles/slide1").mkdir(parents=True, exist_ok=True)
    ...     Image.fromarray(np.full((224, 224, 3), 200, np.uint8)).save(f"tiles/slide1/{name}.png")
    >>> tiles = stp.io.from_tiles("tiles", microns_per_pixel=0.25)
    >>> tiles.obs[["array_row", "array_col"]].to_numpy().tolist()
    [[0, 0], [0, 1], [1, 1]]
    >>> tiles.uns["stpredict"]["X_color-texture"]["tile_um"]
    56.0
    """
    import pandas as pd
    from anndata import AnnData

    from stpredict.encoders import get_encoder

    mpp = check_positive(microns_per_pixel, "microns_per_pixel")
    scale = check_positive(downsample, "downsample")
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"expected batch_size to be a positive whole number; found {batch_size!r}")
    table = _checked(source) if isinstance(source, pd.DataFrame) else _listed(source, pattern)
    if patient is not None:
        table[Key.PATIENT] = _patients(table[Key.SAMPLE], patient)
    note_patient(Key.PATIENT in table, "folder of tiles")
    table.index = pd.Index(
        [f"{name}_x{x}_y{y}" for name, x, y in zip(table[Key.SAMPLE], table["x"], table["y"], strict=True)]
    )
    check_unique(table.index, "positions of the tiles of a slide")
    side_px, depth = _side(table["path"].iloc[0]), _common_depth(table["path"])
    side = side_px * scale

    network = get_encoder(encoder, weights, device)
    features, pictures = _encode(
        table, network.for_side(side * mpp), side_px, depth, side, int(batch_size), thumbnail_px, progress
    )
    key = Key.features(network.name)
    check_finite(features, "features of tiles", f"encoder {network.name!r} or its weights are broken")

    columns = [name for name in (Key.SAMPLE, Key.PATIENT) if name in table]
    obs = table[columns].astype("category")
    lattice = _lattice(table, round(side))
    if lattice is not None:
        obs[Key.ARRAY_ROW], obs[Key.ARRAY_COL] = lattice[:, 0], lattice[:, 1]
    adata = AnnData(obs=obs)
    adata.obsm[Key.SPATIAL] = table[["x", "y"]].to_numpy(dtype=np.float64) + side / 2
    adata.obsm[key] = features
    samples = list(pictures)
    adata.uns["spatial"] = {
        escaped(name): {
            "images": {"hires": picture},
            "scalefactors": {
                "tissue_hires_scalef": factor,
                "spot_diameter_fullres": side,
                "microns_per_pixel": mpp,
            },
            "metadata": {},
        }
        for name, (picture, factor) in pictures.items()
    }
    write_record(
        adata,
        key,
        {
            "encoder": network.name,
            "fingerprint": network.fingerprint,
            "dim": features.shape[1],
            **seal_features(features, adata.obs[Key.SAMPLE]),
            "tile_um": side * mpp,
            "tile_px": network.tile_px,
            "context": (1.0,),
            "microns_per_pixel": dict.fromkeys(samples, mpp),
            "padded": dict.fromkeys(samples, 0),
        },
    )
    record_reading(adata, "from_tiles", downsample=scale, image_px=side_px)
    return adata


def _listed(source: str | Path, pattern: str) -> pd.DataFrame:
    """Paths, slides and positions of the images in a folder."""
    import pandas as pd

    folder = check_folder(source, "pass the folder that holds one folder of tile images per slide")
    expression = re.compile(pattern)
    if not {"x", "y"} <= set(expression.groupindex):
        raise ValueError(f"expected the groups (?P<x>…) and (?P<y>…) in pattern; found {pattern!r}")
    found = [path for path in [*folder.glob("*"), *folder.glob("*/*")] if path.suffix.lower() in _SUFFIXES]
    paths = sorted(path for path in found if path.is_file() and not is_hidden(path, folder))
    if not paths:
        raise ValueError(f"expected images ({', '.join(sorted(_SUFFIXES))}) in {folder} or its folders; found none")
    matches = [expression.search(path.stem) for path in paths]
    strange = [path.name for path, match in zip(paths, matches, strict=True) if match is None]
    if strange:
        raise ValueError(
            f"expected file names like x1024_y512.png, matching {pattern!r}; found {few(strange)}; pass `pattern=`, or a "
            "DataFrame with the columns path, sample, x, y"
        )
    rows = [(path, path.parent.name, int(match["x"]), int(match["y"])) for path, match in zip(paths, matches, strict=True) if match]  # fmt: skip
    table = pd.DataFrame(rows, columns=["path", Key.SAMPLE, "x", "y"])
    return table.sort_values([Key.SAMPLE, "y", "x"], kind="stable", ignore_index=True)


def _checked(source: pd.DataFrame) -> pd.DataFrame:
    needed = ["path", Key.SAMPLE, "x", "y"]
    missing = [name for name in needed if name not in source]
    if missing:
        raise KeyError(f"expected the columns {', '.join(needed)}; missing {', '.join(missing)}")
    if len(source) == 0:
        raise ValueError("expected at least one tile; found an empty table")
    table = source[[*needed, *([Key.PATIENT] if Key.PATIENT in source else [])]].reset_index(drop=True)
    for name in ("x", "y"):
        if table[name].dtype.kind not in "iuf" or not np.isfinite(table[name]).all():
            raise ValueError(f"expected finite numbers in the column {name!r} (pixels); found other values")
        table[name] = table[name].round().astype(np.int64)
    table[Key.SAMPLE] = table[Key.SAMPLE].astype(str)
    return table


def _patients(samples: pd.Series, patient: Mapping[str, str] | Callable[[str], str]) -> pd.Series:
    names = samples.unique()
    if isinstance(patient, Mapping):
        missing = [name for name in names if name not in patient]
        if missing:
            raise KeyError(f"expected the patient of every slide in `patient=`; missing {few(missing)}")
        return samples.map({name: str(patient[name]) for name in names})
    return samples.map({name: str(patient(name)) for name in names})


def _side(path: str | Path) -> int:
    return _square(SectionImage(path), path).height


def _square(image: SectionImage, path: str | Path) -> SectionImage:
    if image.height != image.width:
        raise ValueError(f"expected a square tile at {path}; found {image.width} x {image.height} px")
    return image


def _common_depth(paths: pd.Series) -> Depth:
    """How bright the values of all tiles are at most: by itself, a dark tile of 16 bits would be made bright."""
    if not SectionImage(paths.iloc[0]).deep:
        return Depth(8, 8)
    depth = Depth(8, 8)
    for path in paths:
        depth = depth | SectionImage(path).depth
    return replace(depth, empty_alpha=False)  # a tile that is transparent everywhere is background


def _encode(
    table: pd.DataFrame,
    encoder: Encoder,
    side_px: int,
    depth: Depth,
    side: float,
    batch_size: int,
    thumbnail_px: int,
    progress: bool | None,
) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, float]]]:
    """Features (n, dim) of the tiles, and for each slide a picture uint8 (h, w, 3) with its scale."""
    from PIL import Image
    from tqdm.auto import tqdm

    from stpredict.core._settings import settings
    from stpredict.encoders._resize import resized, warn_if_coarse

    pictures: dict[str, tuple[np.ndarray, float]] = {}
    for name, group in table.groupby(Key.SAMPLE, sort=False):
        width, height = float(group["x"].max()) + side, float(group["y"].max()) + side
        factor = min(1.0, thumbnail_px / max(width, height))
        shape = (max(1, round(height * factor)), max(1, round(width * factor)), 3)
        pictures[str(name)] = np.full(shape, 255, dtype=np.uint8), factor
    features = np.empty((len(table), encoder.dim), dtype=np.float32)
    gray: dict[str, None] = {}
    show_progress = settings.progress if progress is None else progress
    with tqdm(total=len(table), unit="tile", desc=encoder.name, disable=not show_progress) as bar:
        for start in range(0, len(table), batch_size):
            part = table.iloc[start : start + batch_size]
            windows = np.empty((len(part), side_px, side_px, 3), dtype=np.uint8)
            for row, (path, name, x, y) in enumerate(part[["path", Key.SAMPLE, "x", "y"]].itertuples(index=False)):
                image = _square(SectionImage(path), path)
                image.depth = depth
                pixels = image.band(0, image.height)
                if image.height != side_px:
                    raise ValueError(f"expected tiles of one size; found {side_px} and {image.height} px ({path})")
                windows[row] = pixels
                if image.gray:
                    gray[name] = None
                canvas, factor = pictures[name]
                top, left = int(y * factor), int(x * factor)
                small = max(1, round(side * factor))
                icon = np.asarray(Image.fromarray(pixels).resize((small, small), Image.Resampling.BOX))
                place = canvas[top : top + small, left : left + small]
                place[:] = icon[: place.shape[0], : place.shape[1]]
            features[start : start + len(part)] = (
                encoder(resized(windows, encoder.tile_px, encoder.device)).cpu().numpy()
            )
            bar.update(len(part))
    if gray:
        warnings.warn(
            f"tiles of {few(gray)} are gray; encoders were made for the colors of hematoxylin and eosin", stacklevel=3
        )
    warn_if_coarse("every tile", side_px, encoder.tile_px, stacklevel=3)
    return features, pictures


def _lattice(table: pd.DataFrame, side: int) -> np.ndarray | None:
    """Row and column (n, 2) of every tile, counted from the first of its slide; `None` where there is no lattice."""
    places = np.empty((len(table), 2), dtype=np.int64)
    for rows in table.groupby(Key.SAMPLE, sort=False).indices.values():
        offset = table[["y", "x"]].to_numpy(dtype=np.int64)[rows]
        offset -= offset.min(axis=0)
        step = int(np.gcd.reduce(offset, axis=None))
        if step % side == 0:  # tiles side by side, however many are left out between them
            step = side
        if step * _REGULAR < side:
            return None
        places[rows] = offset // step
    return places
