"""A section's full-resolution image: decoded once, read in bands, cut into windows without a loop over spots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from stpredict.slots._container import is_spatialdata
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

_MAX_PIXELS = 2**31  # beyond this PIL's own arrays overflow; such images belong in a pyramid


_MAX_CHANNELS = 4
_ROUNDING = 0.01  # floats that were resampled may leave 0–1 by little


def _check_array(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise unless an array holds an image: gray, or channels last, of a depth that is known."""
    if len(shape) not in (2, 3):
        raise ValueError(f"expected an image of shape (height, width, 3); found {shape}")
    if len(shape) == 3 and not 1 <= shape[2] <= _MAX_CHANNELS:
        call = "pass three of its channels as red, green and blue"
        if 1 <= shape[0] <= _MAX_CHANNELS:
            call = "channels come first: pass np.moveaxis(image, 0, -1)"
        raise ValueError(f"expected an image of shape (height, width, 3); found {shape}; {call}")
    if dtype not in (np.uint8, np.uint16) and dtype.kind != "f":
        raise TypeError(f"expected an image of uint8, uint16 or floats in 0–1; found {dtype}")


def _as_uint8(values: np.ndarray) -> np.ndarray:
    """RGB uint8 (h, w, 3) from gray, RGB or RGBA in uint8 or uint16, or floats in 0–1."""
    if values.ndim == 2:
        values = np.repeat(values[:, :, None], 3, axis=2)
    values = values[:, :, :3] if values.shape[2] >= 3 else np.repeat(values[:, :, :1], 3, axis=2)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "f":
        if values.size and not (values.min() >= -_ROUNDING and values.max() <= 1 + _ROUNDING):
            raise ValueError(
                f"expected an image of uint8, uint16 or floats in 0–1; found floats from {values.min():g} to "
                f"{values.max():g}; scale them, or pass uint8"
            )
        return np.clip(np.round(values * 255), 0, 255).astype(np.uint8)
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    raise TypeError(f"expected an image of uint8, uint16 or floats in 0–1; found {values.dtype}")


def _rgb(image: Any) -> Any:
    """Pillow image in RGB; it would clip 16 bits to 8 itself, and floats."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        from PIL import Image

        return Image.fromarray(_as_uint8(np.asarray(image)))
    if image.mode in ("I", "F"):
        raise ValueError(f"expected an image of 8 or 16 bits per channel; found mode {image.mode!r}; convert it first")
    return image.convert("RGB")


class SectionImage:
    """An RGB image behind one interface, whatever holds it.

    Parameters
    ----------
    source
        Path of an image file that Pillow reads, an array (h, w, 3), or an xarray DataArray (c, y, x).

    Attributes
    ----------
    height, width
        Size in pixels.
    """

    def __init__(self, source: Any) -> None:
        self._pil: Any = None
        self._path: Path | None = None
        self._array: Any = None
        if isinstance(source, (str, Path)):
            self._path = Path(source)
            self.width, self.height = self._open().size
        elif hasattr(source, "isel"):
            if set(source.dims) != {"c", "y", "x"}:
                raise ValueError(f"expected an image element with dimensions c, y, x; found {tuple(source.dims)}")
            self._array = source.transpose("y", "x", "c")
        else:
            self._array = np.asarray(source)
        if self._array is not None:
            _check_array(self._array.shape, self._array.dtype)
            self.height, self.width = self._array.shape[:2]

    def _open(self) -> Any:
        from PIL import Image, UnidentifiedImageError

        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, _MAX_PIXELS
        try:
            return Image.open(cast("Path", self._path))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"expected an image at {self._path}; found no file; pass `image=` or correct metadata.source_image_path"
            ) from error
        except UnidentifiedImageError as error:
            raise ValueError(f"expected an image at {self._path}; found a file that Pillow cannot read") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit

    def _decoded(self) -> Any:
        if self._pil is None:
            image = self._open()
            try:
                image.load()
            except (OSError, SyntaxError) as error:
                raise ValueError(
                    f"expected a complete image at {self._path}; found a truncated or damaged file ({error}); copy it again"
                ) from error
            self._pil = _rgb(image)
        return self._pil

    def band(self, top: int, bottom: int) -> np.ndarray:
        """Rows `top` to `bottom` (exclusive) as uint8 (bottom - top, width, 3)."""
        if self._path is not None:
            return np.asarray(self._decoded().crop((0, top, self.width, bottom)))
        part = self._array[top:bottom]
        return _as_uint8(np.asarray(getattr(part, "values", part)))

    def windows(self, centers: np.ndarray, side: int, batch_size: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cut square windows around centers, in batches ordered from the top of the image.

        Parameters
        ----------
        centers
            (n, 2) x and y in pixels.
        side
            Side of a window in pixels.
        batch_size
            Windows per batch.

        Yields
        ------
        Indices into `centers` (b,) and the windows as uint8 (b, side, side, 3). What lies beyond the border of the
        image is filled by reflection.
        """
        corner = np.round(np.asarray(centers, dtype=float) - side / 2).astype(np.int64)
        order = np.argsort(corner[:, 1], kind="stable")
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            x, y = corner[index, 0], corner[index, 1]
            pad_y = (max(-int(y.min()), 0), max(int(y.max()) + side - self.height, 0))
            pad_x = (max(-int(x.min()), 0), max(int(x.max()) + side - self.width, 0))
            # The band holds all rows that are reflected, so that a window does not depend on the others of its batch.
            top = max(min(int(y.min()), self.height - 1 - pad_y[1]), 0)
            bottom = min(max(int(y.max()) + side, pad_y[0] + 1), self.height)
            band = self.band(top, bottom)
            if any(pad_x + pad_y):
                mode: Any = "reflect" if max(pad_y) < self.height and max(pad_x) < self.width else "symmetric"
                band = np.pad(band, (pad_y, pad_x, (0, 0)), mode=mode)
            views = np.lib.stride_tricks.sliding_window_view(band, (side, side), axis=(0, 1))
            rows, columns = y - (top - pad_y[0]), x + pad_x[0]
            yield index, np.ascontiguousarray(views[rows, columns].transpose(0, 2, 3, 1))

    def thumbnail(self, max_side: int = 1000) -> tuple[np.ndarray, float]:
        """Downscaled image, uint8 (h, w, 3), and the factor from full-resolution to thumbnail pixels.

        A JPEG is decoded at reduced size, in a fraction of the memory and time of the full image.
        """
        from PIL import Image

        factor = min(1.0, max_side / max(self.height, self.width))
        size = (max(1, round(self.width * factor)), max(1, round(self.height * factor)))
        if self._path is not None and self._pil is None:
            image = self._open()
            image.draft("RGB", size)
            try:
                small = _rgb(image).resize(size, Image.Resampling.BOX)
            except (OSError, SyntaxError) as error:
                raise ValueError(
                    f"expected a complete image at {self._path}; found a truncated or damaged file ({error}); copy it again"
                ) from error
        elif self._pil is not None:
            small = self._pil.resize(size, Image.Resampling.BOX)
        else:
            small = Image.fromarray(self.band(0, self.height)).resize(size, Image.Resampling.BOX)
        return np.array(small), factor

    def fingerprint(self) -> str:
        """SHA-256 of the file, or of the pixels where there is no file."""
        digest = hashlib.sha256()
        if self._path is not None:
            with self._path.open("rb") as handle:
                while chunk := handle.read(1 << 22):
                    digest.update(chunk)
        else:
            digest.update(f"{self.height}x{self.width}".encode())
            for top in range(0, self.height, 1024):
                digest.update(np.ascontiguousarray(self.band(top, min(top + 1024, self.height))).tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Drop the decoded pixels; they are read again when needed."""
        self._pil = None


def section_image(data: Container, adata: AnnData, sample: str, image: Any = None) -> SectionImage:
    """Find the full-resolution image of a section.

    In this order: `image` (a path, an array, or a mapping from section to either), the path in
    `uns["spatial"][sample]["metadata"]["source_image_path"]`, the SpatialData image element of the section unless its
    transformation says that it is downscaled, and
    `uns["spatial"][sample]["images"]["hires"]` where it is stored at full resolution (scale factor 1).
    """
    if isinstance(image, Mapping):
        if sample not in image:
            raise KeyError(f"expected an image of section {sample!r}; found {sorted(image)}; add it to `image=`")
        return SectionImage(image[sample])
    if image is not None:
        return SectionImage(image)
    entry = adata.uns.get("spatial", {}).get(sample, {})
    path = entry.get("metadata", {}).get("source_image_path")
    if path is not None and (Path(str(path)).is_file() or not entry.get("images")):
        return SectionImage(str(path))
    if is_spatialdata(data):
        for name in (f"{sample}_full_image", f"{sample}_image", sample):
            if name in data.images and element_scale(element := data.images[name], sample) == 1.0:
                return SectionImage(element["scale0"]["image"] if hasattr(element, "groups") else element)
    if "hires" in entry.get("images", {}) and float(entry["scalefactors"].get("tissue_hires_scalef", 0)) == 1.0:
        return SectionImage(entry["images"]["hires"])
    if path is not None:
        return SectionImage(str(path))
    raise KeyError(
        f"expected a full-resolution image of section {sample!r}; found none in "
        f"uns['spatial'][{sample!r}] or the SpatialData; pass `image=` (a path, an array, or a mapping by section)"
    )


def element_scale(element: Any, sample: str) -> float:
    """Full-resolution pixels per pixel of a SpatialData image element, from its transformation.

    Taken from the coordinate system named after the section, or else `"global"`; 1 where the element has neither.
    """
    from spatialdata.transformations import get_transformation

    transformations = get_transformation(element, get_all=True)
    transformation = transformations.get(sample, transformations.get("global"))
    if transformation is None:
        return 1.0
    matrix = transformation.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))[:2, :2]
    scale = float(np.sqrt(abs(np.linalg.det(matrix))))
    return 1.0 if np.isclose(scale, 1.0, rtol=1e-6) else scale


def microns_per_pixel(adata: AnnData, sample: str, given: float | Mapping[str, float] | None = None) -> float:
    """µm per full-resolution pixel of a section: given, or read from its scale factors; an error when unknown."""
    from stpredict.core._validate import check_positive

    if isinstance(given, Mapping):
        given = given.get(sample)
    value = given
    if value is None:
        value = adata.uns.get("spatial", {}).get(sample, {}).get("scalefactors", {}).get("microns_per_pixel")
    if value is None:
        raise ValueError(
            f"expected the µm per pixel of section {sample!r}; found none in "
            f"uns['spatial'][{sample!r}]['scalefactors']; pass `microns_per_pixel=`, or read the data with stp.io, "
            "which derives it from the lattice"
        )
    return check_positive(float(value), f"microns_per_pixel of section {sample!r}")


def check_positions(xy: np.ndarray, image: SectionImage, sample: str) -> None:
    """Raise when spots lie outside the image, or when their transposed positions lie clearly better on the tissue.

    Parameters
    ----------
    xy
        (n, 2) x and y in full-resolution pixels.
    """
    from stpredict.core._validate import check_finite

    check_finite(xy, f"positions of section {sample!r}", f"correct obsm[{Key.SPATIAL!r}]")
    size = np.array([image.width, image.height])
    outside = ((xy < 0) | (xy >= size)).any(axis=1)
    if outside.any():
        transposed_fits = not ((xy[:, ::-1] < 0) | (xy[:, ::-1] >= size)).any()
        hint = (
            "x and y look swapped: obsm['spatial'] holds x (column) first"
            if transposed_fits
            else "check that the positions are in pixels of this image at full resolution"
        )
        raise ValueError(
            f"expected the spots of section {sample!r} inside the image ({image.width} x {image.height} px); "
            f"found {int(outside.sum())} of {len(xy)} outside; {hint}"
        )
    if len(xy) < 20:
        return  # too few to tell
    from skimage.filters import gaussian, threshold_otsu

    small, factor = image.thumbnail(512)
    density = gaussian(-np.log((small.astype(float).mean(axis=2) + 1) / 256), sigma=3)
    tissue = density > threshold_otsu(density) if np.ptp(density) > 0 else np.ones(density.shape, dtype=bool)
    on_tissue, swapped = _mean_at(tissue, xy * factor), _mean_at(tissue, xy[:, ::-1] * factor)
    # Three standard errors of the difference: a few spots may lie better transposed by chance.
    error = (
        np.sqrt((on_tissue * (1 - on_tissue) + swapped * (1 - swapped)) / len(xy)) if np.isfinite(swapped) else np.inf
    )
    if swapped - on_tissue > max(0.1, 3 * error):
        raise ValueError(
            f"expected the spots of section {sample!r} on tissue; found {on_tissue:.0%} there, and {swapped:.0%} of their "
            "transposed positions; x and y look swapped: obsm['spatial'] holds x (column) first"
        )


def _mean_at(values: np.ndarray, xy: np.ndarray) -> float:
    """Mean of an image at positions, those outside left out; -inf when more than a tenth is outside."""
    column, row = np.floor(xy).astype(int).T
    inside = (column >= 0) & (row >= 0) & (column < values.shape[1]) & (row < values.shape[0])
    return float(values[row[inside], column[inside]].mean()) if inside.mean() >= 0.9 else -np.inf
