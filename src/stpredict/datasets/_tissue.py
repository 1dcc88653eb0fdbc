"""Plan of a synthetic section: lattice, outline, tissue classes and what lies inside each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

CLASSES = ("tumor", "stroma", "immune", "fat")
_BORDER_UM = 60.0  # bare glass around the tissue
_FREQUENCIES = np.arange(2, 7)


@dataclass(frozen=True)
class Layout:
    """Lattice of a section and the outline of its tissue, in µm from the top left corner of the image.

    Attributes
    ----------
    xy_um
        (n, 2) x and y of the spots.
    row, column
        (n,) lattice positions; on a hexagonal lattice columns advance by two within a row.
    size_um
        Width and height of the image.
    center_um, aspect, waves, level_um
        Outline: half axes, Fourier coefficients of its irregularity, and the radius at which the tissue ends.
    """

    xy_um: np.ndarray
    row: np.ndarray
    column: np.ndarray
    size_um: tuple[float, float]
    center_um: np.ndarray
    aspect: np.ndarray
    waves: np.ndarray
    level_um: float


def _gauge(angle: np.ndarray, aspect: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Factor from distance to outline radius, in each direction: a rounded rectangle with an irregular contour."""
    exponent = 3.0
    norm = (np.abs(np.cos(angle) / aspect[0]) ** exponent + np.abs(np.sin(angle) / aspect[1]) ** exponent) ** (
        1 / exponent
    )
    phase = angle[..., None] * _FREQUENCIES
    return norm / (1 + np.cos(phase) @ waves[0] + np.sin(phase) @ waves[1])


def plan_section(
    n_spots: int, lattice: str, pitch_um: float, spot_diameter_um: float, rng: np.random.Generator
) -> Layout:
    """Draw an outline and keep the `n_spots` lattice positions that lie deepest inside it."""
    side = int(np.ceil(np.sqrt(n_spots) * 2)) + 4
    row, column = (index.ravel() for index in np.indices((side, side)))
    if lattice == "hex":
        column = 2 * column + row % 2
        xy = np.column_stack([column * pitch_um / 2, row * pitch_um * np.sqrt(3) / 2])
    else:
        xy = np.column_stack([column, row]) * pitch_um
    stretch = np.exp(rng.normal(0, 0.08))
    aspect = np.array([stretch, 1 / stretch])
    waves = rng.normal(0, 0.09, (2, len(_FREQUENCIES))) / _FREQUENCIES
    center = (xy.min(axis=0) + xy.max(axis=0)) / 2 + rng.uniform(-0.5, 0.5, 2) * pitch_um
    offset = xy - center
    depth = np.hypot(*offset.T) * _gauge(np.arctan2(offset[:, 1], offset[:, 0]), aspect, waves)
    order = np.argsort(depth, kind="stable")
    innermost = np.sort(order[:n_spots])
    level = (depth[order[n_spots - 1]] + depth[order[n_spots]]) / 2 + spot_diameter_um / 2 + 15

    contour = center + _contour(level, aspect, waves)
    low, high = contour.min(axis=0) - _BORDER_UM, contour.max(axis=0) + _BORDER_UM
    row, column = row[innermost], column[innermost]
    # Shifts by two on a hexagonal lattice, so that row and column keep equal parity as in Visium.
    unit = 2 if lattice == "hex" else 1
    row, column = (index - index.min() // unit * unit for index in (row, column))
    return Layout(
        xy_um=xy[innermost] - low,
        row=row,
        column=column,
        size_um=(float((high - low)[0]), float((high - low)[1])),
        center_um=center - low,
        aspect=aspect,
        waves=waves,
        level_um=float(level),
    )


def plan_slide(side_um: float, margin_um: float, rng: np.random.Generator) -> Layout:
    """Draw the outline of a section about `side_um` wide on bare glass, without a lattice of spots."""
    stretch = np.exp(rng.normal(0, 0.08))
    aspect = np.array([stretch, 1 / stretch])
    waves = rng.normal(0, 0.09, (2, len(_FREQUENCIES))) / _FREQUENCIES
    contour = _contour(side_um / 2, aspect, waves)
    low, high = contour.min(axis=0) - margin_um, contour.max(axis=0) + margin_um
    return Layout(
        xy_um=np.zeros((0, 2)),
        row=np.zeros(0, int),
        column=np.zeros(0, int),
        size_um=(float((high - low)[0]), float((high - low)[1])),
        center_um=-low,
        aspect=aspect,
        waves=waves,
        level_um=side_um / 2,
    )


def _contour(level_um: float, aspect: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Outline (n, 2) around the origin."""
    angle = np.linspace(-np.pi, np.pi, 721)
    radius = level_um / _gauge(angle, aspect, waves)
    return np.column_stack([np.cos(angle), np.sin(angle)]) * radius[:, None]


def composition_at(classes: np.ndarray, xy: np.ndarray, radius: float) -> np.ndarray:
    """Share of each class in disks.

    Parameters
    ----------
    classes
        (h, w) index into `CLASSES`, -1 on bare glass, which does not count.
    xy
        (n, 2) centers in grid steps.
    radius
        Radius in grid steps.

    Returns
    -------
    (n, 4) shares that sum to 1, or to 0 where a disk holds no tissue.
    """
    reach = int(np.ceil(radius))
    dy, dx = (index.ravel() - reach for index in np.indices((2 * reach + 1, 2 * reach + 1)))
    disk = np.hypot(dx, dy) <= radius
    row = np.floor(xy[:, 1]).astype(int)[:, None] + dy[disk]
    column = np.floor(xy[:, 0]).astype(int)[:, None] + dx[disk]
    outside = (row < 0) | (column < 0) | (row >= classes.shape[0]) | (column >= classes.shape[1])
    row[outside], column[outside] = 0, 0
    class_at = np.where(outside, -1, classes[row, column])
    counts = np.stack([(class_at == index).sum(axis=1) for index in range(len(CLASSES))], axis=1)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def smooth_noise(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian random field of variance 1, float32; `sigma` is the width of its kernel in grid steps."""
    from scipy.ndimage import gaussian_filter

    step = max(1, int(sigma / 2.5))
    coarse = (shape[0] // step + 3, shape[1] // step + 3)
    width = sigma / step
    values = rng.standard_normal(coarse, dtype=np.float32)
    values = gaussian_filter(values, width, mode="wrap", truncate=3) * np.float32(2 * np.sqrt(np.pi) * width)
    return resize(values, shape, 1 / step) if step > 1 else values[: shape[0], : shape[1]]


def resize(values: np.ndarray, shape: tuple[int, int], steps: float) -> np.ndarray:
    """Sample a grid at `shape` points that lie `steps` (at most 1) grid steps apart, bilinear, as float32."""
    across = _linear(values.shape[1], shape[1], steps) @ np.asarray(values, np.float32).T
    return _linear(values.shape[0], shape[0], steps) @ np.ascontiguousarray(across.T)


def _linear(n: int, n_new: int, steps: float) -> Any:
    """Sparse weights (n_new, n) of linear interpolation between the centers of cells."""
    from scipy.sparse import csr_array

    at = np.clip((np.arange(n_new) + 0.5) * steps - 0.5, 0, n - 1)
    low = np.floor(at).astype(np.int32)
    weight = (at - low).astype(np.float32)
    columns = np.column_stack([low, np.minimum(low + 1, n - 1)]).ravel()
    weights = np.column_stack([1 - weight, weight]).ravel()
    return csr_array((weights, columns, np.arange(n_new + 1, dtype=np.int32) * 2), shape=(n_new, n))


@dataclass(frozen=True)
class Plan:
    """What lies where in a section, on a grid of `step_um`.

    Attributes
    ----------
    classes
        (h, w) index into `CLASSES`, -1 on bare glass.
    eosin, hematoxylin
        (h, w) stain concentrations of everything but nuclei.
    density
        For each kind of nucleus, candidates per µm² (h, w).
    angle
        For each kind of nucleus, direction of its long axis (h, w) in radians.
    """

    step_um: float
    classes: np.ndarray
    eosin: np.ndarray
    hematoxylin: np.ndarray
    density: dict[str, np.ndarray]
    angle: dict[str, np.ndarray]


def plan_tissue(layout: Layout, step_um: float, bias: np.ndarray, rng: np.random.Generator) -> Plan:
    """Draw the classes of a section and the structures inside them.

    Parameters
    ----------
    step_um
        Grid step.
    bias
        (4,) log preference of the patient for each class.
    """
    tissue = tissue_mask(layout, step_um, rng)
    classes = _draw_classes(tissue, min(220.0, 0.26 * layout.level_um) / step_um, 38 / step_um, bias, rng)
    return fill_classes(classes, step_um, rng)


def fill_classes(classes: np.ndarray, step_um: float, rng: np.random.Generator) -> Plan:
    """Draw the structures (glands, fibers, fat cells, candidates for nuclei) inside given classes (h, w)."""
    from scipy.ndimage import gaussian_filter

    shape = (classes.shape[0], classes.shape[1])
    y, x = _axes(shape, step_um)
    warp = [smooth_noise(shape, 14 / step_um, rng) * 5 for _ in range(2)]
    x, y = x[None, :] + warp[0], y[:, None] + warp[1]

    eosin, hematoxylin = (np.zeros(shape, np.float32) for _ in range(2))
    density = {kind: np.zeros(shape, np.float32) for kind in ("tumor", "lymphocyte", "fibroblast", "adipocyte")}
    angle = {kind: np.zeros(shape, np.float32) for kind in density}
    fiber, along = _fibers(x, y, step_um, rng)
    mottle = smooth_noise(shape, 9 / step_um, rng)
    cloud = smooth_noise(shape, 40 / step_um, rng)
    angle["fibroblast"][:] = along
    angle["lymphocyte"][:] = along

    part = classes == CLASSES.index("stroma")
    eosin[part] = 0.1 + 0.62 * fiber[part] + 0.03 * mottle[part]
    hematoxylin[part] = 0.05
    density["fibroblast"][part] = 0.0016 * np.clip(1 + 0.6 * cloud[part], 0.2, 2.5)
    density["lymphocyte"][part] = 0.00015

    part = classes == CLASSES.index("immune")
    eosin[part] = 0.14 + 0.2 * fiber[part] + 0.05 * mottle[part]
    hematoxylin[part] = 0.1 + 0.03 * mottle[part]
    density["lymphocyte"][part] = 0.02 * np.clip(1 + 0.7 * cloud[part], 0.08, 3)
    density["fibroblast"][part] = 0.0003

    part = classes == CLASSES.index("tumor")
    depth, lumen, solid, outward = _glands(part, x, y, step_um, rng)
    cell = (depth > 3.0) & ~lumen
    eosin[part] = np.where(lumen, 0.04, np.where(cell, 0.34 + 0.05 * mottle[part], 0.12 + 0.4 * fiber[part]))
    hematoxylin[part] = np.where(cell, 0.2 + 0.04 * mottle[part], 0.03)
    basal = np.exp(-(((depth - 9.0) / 3.0) ** 2))
    density["tumor"][part] = np.where(cell & (depth > 6.0), 0.03 * basal + np.where(solid, 0.006, 0.0012), 0)
    density["fibroblast"][part] = np.where(depth < 2.0, 0.0012, 0)
    angle["tumor"][part] = outward

    part = classes == CLASSES.index("fat")
    rim, tangent = _adipocytes(part, x, y, step_um, rng)
    wall = np.clip(1.5 - rim / 1.4, 0, 1)
    eosin[part] = 0.015 + 0.42 * wall
    hematoxylin[part] = 0.04 * wall
    density["adipocyte"][part] = np.where(rim < 1.8, 0.0022, 0)
    angle["adipocyte"][part] = tangent
    eosin, hematoxylin = (gaussian_filter(stain, 1.4 / step_um, truncate=2) for stain in (eosin, hematoxylin))
    return Plan(step_um, classes, np.clip(eosin, 0, None), np.clip(hematoxylin, 0, None), density, angle)


def _axes(shape: tuple[int, int], step_um: float) -> tuple[np.ndarray, np.ndarray]:
    """Return y and x of the grid points in µm."""
    y, x = ((np.arange(n, dtype=np.float32) + 0.5) * step_um for n in shape)
    return y, x


def tissue_mask(layout: Layout, step_um: float, rng: np.random.Generator) -> np.ndarray:
    """Tissue (h, w) on a grid that covers the image, with a frayed edge."""
    shape = (int(np.ceil(layout.size_um[1] / step_um)) + 2, int(np.ceil(layout.size_um[0] / step_um)) + 2)
    y, x = _axes(shape, step_um)
    dx, dy = x[None, :] - np.float32(layout.center_um[0]), y[:, None] - np.float32(layout.center_um[1])
    coarse = max(1, int(16 / step_um))  # the outline is smooth: evaluate it on few points
    angle = np.arctan2(dy[::coarse], dx[:, ::coarse])
    depth = np.hypot(dy[::coarse], dx[:, ::coarse]) * _gauge(angle, layout.aspect, layout.waves)
    depth = resize(np.pad(depth, ((0, 1), (0, 1)), mode="edge"), shape, 1 / coarse)
    return depth + 5 * smooth_noise(shape, 12 / step_um, rng) < layout.level_um


def _draw_classes(
    tissue: np.ndarray, region: float, nest: float, bias: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Class of each grid point: broad regions, with nests and strands at their borders (widths in grid steps)."""
    broad = {"tumor": 1.5, "stroma": 1.1, "immune": 1.3, "fat": 2.0}
    nests = {"tumor": 0.75, "stroma": 0.6, "immune": 0.7, "fat": 0.15}
    base = {"tumor": 0.35, "stroma": 0.7, "immune": -0.45, "fat": -0.8}
    best = np.full(tissue.shape, -np.inf, np.float32)
    classes = np.full(tissue.shape, -1, np.int8)
    for index, name in enumerate(CLASSES):
        field = smooth_noise(tissue.shape, region, rng)
        sample = field[::8, ::8][tissue[::8, ::8]]
        # Standardized within the section, so that a small one holds every class too.
        field = (field - sample.mean()) / max(float(sample.std()), 1e-6) * broad[name]
        field += smooth_noise(tissue.shape, nest, rng) * nests[name] + (base[name] + bias[index])
        higher = field > best
        classes[higher] = index
        np.maximum(best, field, out=best)
    classes[~tissue] = -1
    return classes


def _fibers(x: np.ndarray, y: np.ndarray, step_um: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Wavy bundles of collagen: intensity 0–1 and direction.

    The level lines of a smooth potential are the fibers; a random profile along the potential gives each a width.
    """
    from scipy.ndimage import gaussian_filter1d

    shape = x.shape
    turn = rng.uniform(0, np.pi)
    slow = smooth_noise(shape, 150 / step_um, rng) * 75 + smooth_noise(shape, 40 / step_um, rng) * 13
    potential = np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y + slow
    profile = np.zeros(4096, np.float32)
    for width, weight in ((1.2, 0.6), (3.0, 0.6), (9.0, 0.7)):
        layer = gaussian_filter1d(rng.standard_normal(4096), width, mode="wrap")
        profile += weight * layer / layer.std()
    profile = 1 / (1 + np.exp(-1.7 * profile))
    texture = profile[(potential * np.float32(1 / 1.5)).astype(np.int32) & 4095].astype(np.float32)
    texture *= np.clip(0.85 + 0.3 * smooth_noise(shape, 25 / step_um, rng), 0.2, 1.4)
    coarse = 4
    gy, gx = np.gradient(potential[::coarse, ::coarse])
    direction = np.arctan2(gy, gx) + np.pi / 2
    near = np.ix_(np.arange(shape[0]) // coarse, np.arange(shape[1]) // coarse)
    return texture, direction.astype(np.float32)[near]


def _cells(
    x: np.ndarray, y: np.ndarray, spacing: float, jitter: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Voronoi cells of a jittered lattice at points (n,): distances to the two nearest seeds, cell, seed position."""
    low_x, low_y = float(x.min()) - spacing, float(y.min()) - spacing
    n_x = int((float(x.max()) - low_x) / spacing) + 3
    n_y = int((float(y.max()) - low_y) / spacing) + 3
    place = rng.uniform(-jitter, jitter, (n_y, n_x, 2)).astype(np.float32) + 0.5
    seed_x = ((place[..., 0] + np.arange(n_x)[None, :]) * spacing + low_x).astype(np.float32).ravel()
    seed_y = ((place[..., 1] + np.arange(n_y)[:, None]) * spacing + low_y).astype(np.float32).ravel()
    home = ((y - low_y) / spacing).astype(np.int32) * n_x + ((x - low_x) / spacing).astype(np.int32)
    first, second = np.full((2, len(x)), np.inf, np.float32)
    owner = home.copy()
    for step in (0, -1, 1, -n_x, n_x, -n_x - 1, -n_x + 1, n_x - 1, n_x + 1):
        other = home + step
        distance = (x - seed_x[other]) ** 2 + (y - seed_y[other]) ** 2
        closer = distance < first
        np.minimum(second, np.where(closer, first, distance), out=second)
        owner[closer] = other[closer]
        np.minimum(first, distance, out=first)
    return np.sqrt(first), np.sqrt(second), owner, np.column_stack([seed_x[owner], seed_y[owner]])


def _glands(
    part: np.ndarray, x: np.ndarray, y: np.ndarray, step_um: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Glands that fill the tumor: depth in µm, whether in a lumen, whether without one, direction of the columns."""
    from scipy.ndimage import distance_transform_edt

    if not part.any():
        return np.zeros(0, np.float32), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, np.float32)
    coarse = 2
    edge = distance_transform_edt(part[::coarse, ::coarse]).astype(np.float32) * (coarse * step_um)
    edge = resize(np.pad(edge, ((0, 2), (0, 2)), mode="edge"), part.shape, 1 / coarse)[part]
    px, py = x[part], y[part]
    first, second, owner, seed = _cells(px, py, 95.0, 0.34, rng)
    depth = np.minimum((second - first) / 2, edge)
    n_cells = int(owner.max()) + 1
    solid = rng.random(n_cells) < 0.3
    radius = np.where(solid, 0, rng.uniform(9, 23, n_cells)).astype(np.float32)
    lumen = (first < radius[owner]) & (depth > 15)
    return depth, lumen, solid[owner], np.arctan2(py - seed[:, 1], px - seed[:, 0])


def _adipocytes(
    part: np.ndarray, x: np.ndarray, y: np.ndarray, step_um: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Fat cells: distance to the membrane in µm, and direction along it."""
    if not part.any():
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    px, py = x[part], y[part]
    first, second, _, seed = _cells(px, py, 62.0, 0.32, rng)
    return (second - first) / 2, np.arctan2(py - seed[:, 1], px - seed[:, 0]) + np.pi / 2
