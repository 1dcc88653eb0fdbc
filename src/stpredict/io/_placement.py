"""Where the pixels of a SpatialData image element lie: turned, shifted or resampled into the section's coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.io._section_image import SectionImage, element_array

_EXACT = 1e-6  # of a pixel
_SHIFT_PX = 0.1  # to which a turn by a right angle, a mirror image or a shift has to agree over the whole picture
COARSEST = 4.0  # full-resolution pixels per pixel beyond which an element is a thumbnail
_LITTLE = 1.05  # the same for what rounding leaves
_BLOCK_PX = 1024


def element_matrix(element: Any, sample: str) -> np.ndarray:
    """Affine matrix (3, 3) from the pixels of an element to the coordinates of a section, x before y.

    Taken from the coordinate system named after the section, or else `"global"`, or else the only one.
    """
    from spatialdata.transformations import get_transformation

    known = get_transformation(element, get_all=True)
    chosen = [known[name] for name in (sample, "global") if name in known][:1] or list(known.values())
    matrices = [_matrix(item, sample) for item in chosen]
    if not matrices:
        return np.eye(3)
    if any(not np.allclose(matrix, matrices[0]) for matrix in matrices):
        raise ValueError(
            f"expected the transformation of the image to the coordinate system {sample!r} or 'global'; found "
            f"{sorted(known)}, which differ; set it with spatialdata.transformations.set_transformation"
        )
    return matrices[0]


def _matrix(transformation: Any, sample: str) -> np.ndarray:
    try:
        matrix = np.asarray(transformation.to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y")), dtype=float)
    except Exception as error:
        # spatialdata raises several kinds for what is not affine.
        raise ValueError(
            f"expected an affine transformation of the image of section {sample!r}; found "
            f"{type(transformation).__name__} ({error}); transform the image with spatialdata.transform first"
        ) from error
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(
            f"expected a transformation of the image of section {sample!r} that can be inverted; found "
            f"{matrix[:2].tolist()}; set it with spatialdata.transformations.set_transformation"
        )
    return matrix


def matrix_scale(matrix: np.ndarray) -> float:
    """Full-resolution pixels per pixel."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    return 1.0 if np.isclose(scale, 1.0, rtol=1e-6) else scale


def is_full_resolution(matrix: np.ndarray) -> bool:
    """Whether an element is no thumbnail: as fine as full resolution, or turned, sheared or mirrored and little coarser."""
    scale, linear = matrix_scale(matrix), matrix[:2, :2]
    plain = np.allclose(linear, np.diag(np.diag(linear)), atol=1e-6 * scale) and (np.diag(linear) > 0).all()
    return scale <= _LITTLE or (not plain and scale <= COARSEST)


def placed(element: Any, matrix: np.ndarray) -> SectionImage:
    """Image in the coordinates of its section.

    Shifts, turns by right angles and mirror images only change where pixels are found. Everything else is resampled to
    full-resolution pixels, which is said.

    Parameters
    ----------
    element
        Image element, of one or several resolutions.
    matrix
        (3, 3) from its pixels to coordinates.
    """
    pixels = element_array(_level(element, matrix_scale(matrix)))
    full = element_array(_level(element, 1.0))
    # A coarser level of a pyramid covers the same area with fewer pixels.
    factor = np.array([full.shape[1] / pixels.shape[1], full.shape[0] / pixels.shape[0]])
    matrix = matrix @ np.diag([*factor, 1.0])
    turned = np.round(matrix[:2, :2])
    size = np.array([pixels.shape[1], pixels.shape[0]])
    one_each = all((np.abs(turned).sum(axis=axis) == 1).all() for axis in (0, 1))
    if one_each and np.abs(matrix[:2, :2] - turned).max() * size.max() < _SHIFT_PX:
        rows, columns = pixels.dims[:2]
        if turned[0, 0] == 0:
            rows, columns = columns, rows
            pixels = pixels.transpose(rows, columns, ...)
        if turned[0].sum() < 0:  # x of the section runs against them
            pixels = pixels.isel({columns: slice(None, None, -1)})
        if turned[1].sum() < 0:
            pixels = pixels.isel({rows: slice(None, None, -1)})
        return SectionImage(_Renamed(pixels), origin=_settled(_corners(matrix, size).min(axis=0)))
    resampled = Resampled(pixels, matrix)
    scale = matrix_scale(matrix)
    return SectionImage(
        resampled,
        origin=resampled.origin,
        area=resampled,
        remark=(
            "its image element is resampled to full-resolution pixels, as its transformation "
            f"{np.round(matrix[:2], 4).tolist()} is more than a shift, a mirror image or a turn by right angles"
            + (f"; the element is {scale:.3g} times coarser than that" if scale > _LITTLE else "")
        ),
    )


def stretched(source: Any, scale: tuple[float, float]) -> SectionImage:
    """Image whose pixels are square: resampled to `scale` pixels along x and y for each of its own.

    Parameters
    ----------
    source
        Path, array or Pillow image, as :class:`SectionImage` takes it.
    scale
        Pixels of the result for each pixel of the source, along x and y; ones give the image as it is.
    """
    picture = SectionImage(source)
    if tuple(scale) == (1.0, 1.0):
        return picture
    resampled = Resampled(_Colors(picture), np.diag([*scale, 1.0]))
    return SectionImage(resampled, area=resampled)


def _level(element: Any, scale: float) -> Any:
    """Level of an element that has full resolution, or is as little finer than that as there is."""
    if not hasattr(element, "groups"):
        return element
    levels = [element[name]["image"] for name in element.children]
    full = levels[0].sizes["y"]
    fitting = [level for level in levels if scale * full / level.sizes["y"] <= 1 + 1e-3]
    return fitting[-1] if fitting else levels[0]


def _settled(values: np.ndarray) -> np.ndarray:
    """Numbers without the dust of arithmetic."""
    return np.where(np.abs(values - np.round(values)) < 1e-4, np.round(values), values)


def _corners(matrix: np.ndarray, size: np.ndarray) -> np.ndarray:
    corner = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * size
    return corner @ matrix[:2, :2].T + matrix[:2, 2]


class _Renamed:
    """Array behind an xarray object, cut by slices without looking at the names of its axes."""

    def __init__(self, array: Any) -> None:
        self._array, self.shape, self.dtype = array, tuple(array.shape), array.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self._array[rows].values)


class _Colors:
    """Colors of an image that is decoded when some are asked for: an array uint8 (h, w, 3)."""

    def __init__(self, picture: SectionImage) -> None:
        self._picture = picture
        self.shape, self.dtype = (picture.height, picture.width, 3), np.dtype(np.uint8)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = window
        return self._picture.band(rows.start, rows.stop)[:, columns]

    def close(self) -> None:
        """Drop what was decoded."""
        self._picture.close()


class Resampled:
    """Array (h, w, c) of full-resolution pixels that are computed from others when the first of them is asked for.

    Parameters
    ----------
    pixels
        xarray object (y, x) or (y, x, c), or what is cut like one.
    matrix
        (3, 3) from its pixels to coordinates.

    Attributes
    ----------
    origin
        Coordinates (x, y) of the first pixel.
    """

    def __init__(self, pixels: Any, matrix: np.ndarray) -> None:
        self._pixels, self._inverse = pixels, np.linalg.inv(matrix)
        self._size = np.array([pixels.shape[1], pixels.shape[0]])
        corners = _corners(matrix, self._size)
        self.origin = np.floor(corners.min(axis=0) + 1e-6)
        width, height = np.maximum(np.ceil(corners.max(axis=0) - self.origin - 1e-6), 1).astype(int)
        self.shape = (int(height), int(width), 3)
        self.dtype = np.dtype(np.uint8)
        self._values: np.ndarray | None = None

    def inside(self, xy: np.ndarray) -> np.ndarray:
        """Which positions (n, 2) lie on the element (n,)."""
        local = self._to_element(np.asarray(xy, dtype=np.float64))
        return np.all((local >= -_EXACT) & (local <= self._size + _EXACT), axis=1)

    def release(self) -> None:
        """Drop the pixels."""
        self._values = None
        if isinstance(self._pixels, _Colors):
            self._pixels.close()

    def _to_element(self, xy: np.ndarray) -> np.ndarray:
        return xy @ self._inverse[:2, :2].T + self._inverse[:2, 2]

    def __getitem__(self, rows: slice) -> np.ndarray:
        if self._values is None:
            self._values = self._computed()
        return self._values[rows]

    def _computed(self) -> np.ndarray:
        """All pixels, white beyond the element, block by block."""
        source = SectionImage(self._pixels)  # whatever its depth and channels
        depth = source.depth
        values = np.full(self.shape, 255, dtype=np.uint8)
        for top in range(0, self.shape[0], _BLOCK_PX):
            for left in range(0, self.shape[1], _BLOCK_PX):
                block = values[top : top + _BLOCK_PX, left : left + _BLOCK_PX]
                self._fill(block, np.array([left, top]) + self.origin, depth)
        return values

    def _fill(self, block: np.ndarray, corner: np.ndarray, depth: Any) -> None:
        from scipy import ndimage

        from stpredict.io._pixels import to_rgb

        height, width = block.shape[:2]
        # Averages over what a pixel covers, where the element is finer than full resolution.
        sigma = max(0.0, (np.sqrt(abs(np.linalg.det(self._inverse[:2, :2]))) - 1) / 2)
        margin = 2 + int(np.ceil(4 * sigma))
        area = self._to_element(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * [width, height] + corner)
        low = np.clip(np.floor(area.min(axis=0)).astype(int) - margin, 0, self._size)
        high = np.clip(np.ceil(area.max(axis=0)).astype(int) + margin, 0, self._size)
        if (high <= low).any():
            return
        part = self._pixels[low[1] : high[1], low[0] : high[0]]
        colors = to_rgb(np.asarray(getattr(part, "values", part)), depth).astype(np.float32)
        if sigma > 0:
            colors = ndimage.gaussian_filter(colors, (sigma, sigma, 0), mode="nearest")
        row, column = np.mgrid[:height, :width]
        centers = np.stack([column.ravel(), row.ravel()], axis=1) + 0.5 + corner
        local = self._to_element(centers)
        there = ((local >= 0) & (local <= self._size)).all(axis=1).reshape(height, width)
        x, y = (local - low - 0.5).T
        for channel in range(3):
            found = ndimage.map_coordinates(colors[..., channel], [y, x], order=1, mode="nearest")
            block[..., channel] = np.where(there, np.round(found).reshape(height, width), 255)
