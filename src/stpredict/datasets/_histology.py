"""Hematoxylin and eosin image of a planned section: nuclei, stains, light and sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpredict.datasets._tissue import Plan, resize

# Optical density of the stains in red, green and blue :cite:p:`ruifrok2001`.
HEMATOXYLIN = np.array([0.650, 0.704, 0.286])
EOSIN = np.array([0.072, 0.990, 0.105])
_N_SHAPES, _N_ANGLES = 24, 16


@dataclass(frozen=True)
class Stain:
    """Stain vectors (2, 3) in optical density, their strengths (2,), and the color of bare glass (3,) in 0–255."""

    vectors: np.ndarray
    strength: np.ndarray
    glass: np.ndarray


def draw_stain(shift: float, rng: np.random.Generator, base: Stain | None = None) -> Stain:
    """Draw a stain around `base` (around the textbook vectors without one); `shift` is the SD of log strength."""
    if base is None:
        base = Stain(np.stack([HEMATOXYLIN, EOSIN]), np.ones(2), np.array([243.0, 236.0, 242.0]))
    vectors = np.clip(base.vectors + rng.normal(0, 0.3 * shift, (2, 3)), 0.01, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    strength = base.strength * np.exp(rng.normal(0, shift, 2))
    glass = np.clip(base.glass + rng.normal(0, 20 * shift, 3), 200, 252)
    return Stain(vectors, strength, glass)


@dataclass(frozen=True)
class _Nucleus:
    """Shape of a kind of nucleus; lengths in µm.

    Half axes, relative SD of the size, irregularity of the outline, hematoxylin, contrast and grain of the chromatin,
    darkening at the membrane, number of nucleoli, and whether the direction varies freely.
    """

    long: float
    short: float
    spread: float
    irregular: float
    hematoxylin: float
    contrast: float
    grain: float
    membrane: float
    nucleoli: int
    tilt: float


_NUCLEI = {
    "tumor": _Nucleus(6.3, 4.6, 0.16, 0.09, 1.25, 0.42, 0.9, 0.35, 1, 0.35),
    "lymphocyte": _Nucleus(3.7, 3.4, 0.07, 0.04, 2.1, 0.30, 0.9, 0.0, 0, np.pi),
    "fibroblast": _Nucleus(8.5, 1.7, 0.20, 0.06, 1.5, 0.20, 0.8, 0.1, 0, 0.15),
    "adipocyte": _Nucleus(5.5, 1.5, 0.15, 0.05, 1.6, 0.15, 0.8, 0.0, 0, 0.1),
}


def _bank(kind: _Nucleus, mpp: float, rng: np.random.Generator) -> np.ndarray:
    """Render shapes × directions of a kind of nucleus: hematoxylin (_N_SHAPES, _N_ANGLES, side, side)."""
    from scipy.ndimage import gaussian_filter

    half = int(np.ceil(kind.long * (1 + 2.5 * kind.spread + kind.irregular) / mpp)) + 1
    offset = np.arange(-half, half + 1) * mpp
    n = (_N_SHAPES, 1, 1, 1)
    turn = (np.arange(_N_ANGLES) * 2 * np.pi / _N_ANGLES)[:, None, None]
    u = np.cos(turn) * offset[None, None, :] + np.sin(turn) * offset[None, :, None]
    v = -np.sin(turn) * offset[None, None, :] + np.cos(turn) * offset[None, :, None]
    size = np.exp(np.clip(rng.normal(0, kind.spread, n), -2 * kind.spread, 2 * kind.spread))
    slender = np.exp(rng.normal(0, kind.spread / 2, n))
    a, b = kind.long * size, np.minimum(kind.short * size * slender, kind.long * size)
    angle = np.arctan2(v / b, u / a)
    outline = np.ones_like(angle)
    for wave in range(2, 6):
        outline += kind.irregular * rng.normal(0, 1.6 / wave, n) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi, n))
    radius = np.hypot(u / a, v / b) / np.clip(outline, 0.6, 1.4)  # 1 on the outline
    inward = (1 - radius) * b  # roughly µm from the outline
    inside = np.clip(inward / max(1.1, mpp) + 0.5, 0, 1)

    grain = max(kind.grain / mpp, 0.5)
    shape = (_N_SHAPES, _N_ANGLES, len(offset), len(offset))
    chromatin = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (0, 0, grain, grain))
    chromatin *= 2 * np.sqrt(np.pi) * grain
    value = 1 + kind.contrast * np.clip(chromatin, -1.6, 1.6) + kind.membrane * np.exp(-((inward / 1.0) ** 2))
    for _ in range(kind.nucleoli):
        at = rng.uniform(-0.35, 0.35, (2, *n))
        value = value + 0.7 * np.exp(-(((u - at[0] * a) ** 2 + (v - at[1] * b) ** 2) / 1.1**2))
    darkness = np.exp(rng.normal(0, 0.16, n))
    return (kind.hematoxylin * darkness * inside * np.clip(value, 0.25, None)).astype(np.float32)


def _scatter(plan: Plan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Draw nuclei that hardly overlap: x and y in µm, direction, and kind (an index into the returned names)."""
    from scipy.spatial import cKDTree

    names = list(plan.density)
    places, directions, kinds = [], [], []
    for index, name in enumerate(names):
        chance = plan.density[name] * np.float32(plan.step_um**2)
        row, column = np.nonzero(rng.random(chance.shape, dtype=np.float32) < chance)
        xy = (np.column_stack([column, row]) + rng.random((len(row), 2))) * plan.step_um
        places.append(xy)
        directions.append(plan.angle[name][row, column] + rng.normal(0, _NUCLEI[name].tilt, len(row)))
        kinds.append(np.full(len(row), index))
    xy, direction, kind = np.concatenate(places), np.concatenate(directions), np.concatenate(kinds)
    shuffled = rng.permutation(len(xy))
    xy, direction, kind = xy[shuffled], direction[shuffled], kind[shuffled]
    if len(xy) == 0:
        return xy, direction, kind, names
    reach = np.array([0.92 * np.sqrt(_NUCLEI[name].long * _NUCLEI[name].short) for name in names])[kind]
    pairs = cKDTree(xy).query_pairs(2 * float(reach.max()), output_type="ndarray")
    gap = np.hypot(*(xy[pairs[:, 0]] - xy[pairs[:, 1]]).T)
    kept = _independent(len(xy), pairs[gap < reach[pairs].sum(axis=1)])
    return xy[kept], direction[kept], kind[kept], names


def _independent(n: int, pairs: np.ndarray, rounds: int = 8) -> np.ndarray:
    """Subset of `n` items without any conflicting pair, earlier items first; all items at once in each round."""
    open_, kept = np.ones(n, bool), np.zeros(n, bool)
    first, second = np.sort(pairs, axis=1).T
    for _ in range(rounds):
        new = open_.copy()
        new[second] = False
        kept |= new
        open_ &= ~new
        open_[second[new[first]]] = False
        live = open_[first] & open_[second]
        first, second = first[live], second[live]
        if not open_.any():
            break
    return kept


def _stamp(
    target: np.ndarray, bank: np.ndarray, xy_px: np.ndarray, direction: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw an element of the bank at each position: the darker value wins where nuclei overlap.

    Returns which of them were drawn (n,): those that would reach over the border are not.
    """
    side = bank.shape[-1]
    flat, width = target.reshape(-1), target.shape[1]
    patches = bank.reshape(_N_SHAPES * _N_ANGLES, -1)
    corner = np.floor(xy_px).astype(np.int64) - side // 2
    inside = ((corner >= 0) & (corner + side <= np.array(target.shape[::-1]))).all(axis=1)
    corner = corner[inside]
    turn = np.round(direction[inside] / (2 * np.pi) * _N_ANGLES).astype(np.int64) % _N_ANGLES
    element = rng.integers(_N_SHAPES, size=len(corner)) * _N_ANGLES + turn
    offset = (np.arange(side)[:, None] * width + np.arange(side)[None, :]).ravel()
    for start in range(0, len(corner), 4096):
        part = slice(start, start + 4096)
        index = (corner[part, 1] * width + corner[part, 0])[:, None] + offset
        np.maximum.at(flat, index.ravel(), patches[element[part]].ravel())
    return inside


def render(plan: Plan, size_um: tuple[float, float], mpp: float, stain: Stain, rng: np.random.Generator) -> np.ndarray:
    """Render a planned section, RGB uint8 (height, width, 3); see :func:`render_with_nuclei`."""
    return render_with_nuclei(plan, size_um, mpp, stain, rng)[0]


def render_with_nuclei(
    plan: Plan, size_um: tuple[float, float], mpp: float, stain: Stain, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render a planned section, and tell where its nuclei are.

    Parameters
    ----------
    size_um
        Width and height of the image.
    mpp
        µm per pixel.

    Returns
    -------
    RGB uint8 (height, width, 3), the centers of the nuclei that were drawn as x and y in µm (n, 2), and their kind (n,).
    """
    shape = (int(np.ceil(size_um[1] / mpp)), int(np.ceil(size_um[0] / mpp)))
    nuclei = np.zeros(shape, np.float32)
    xy, direction, kind, names = _scatter(plan, rng)
    drawn = np.zeros(len(xy), bool)
    for index, name in enumerate(names):
        bank, rows = _bank(_NUCLEI[name], mpp, rng), np.flatnonzero(kind == index)
        drawn[rows] = _stamp(nuclei, bank, xy[rows] / mpp, direction[rows], rng)
    steps = mpp / plan.step_um
    eosin = np.clip(resize(plan.eosin, shape, steps), 0, None)
    ground = np.clip(resize(plan.hematoxylin, shape, steps), 0, None)

    vectors = (stain.vectors * stain.strength[:, None]).astype(np.float32)
    glass = stain.glass.astype(np.float32)
    image = np.empty((*shape, 3), np.uint8)
    for top in range(0, shape[0], 64):  # a band that stays in the cache
        band = slice(top, top + 64)
        blue = nuclei[band] + ground[band]
        pink = eosin[band] * (1 - 0.5 * np.minimum(nuclei[band], 1))
        noise = rng.standard_normal(blue.shape, dtype=np.float32) * np.float32(2.5) + np.float32(0.5)  # rounds
        # Lambert and Beer: densities add, intensities multiply.
        for channel in range(3):
            light = blue * -vectors[0, channel]
            light -= pink * vectors[1, channel]
            np.exp(light, out=light)
            light *= glass[channel]
            light += noise
            image[band, :, channel] = np.clip(light, 0, 255, out=light)
    return image, xy[drawn], np.array(names)[kind[drawn]]
