"""Stains of a picture: how they are found in pixels, and how pixels are given those of a reference.

All methods come down to one form. Pixels go to a space where stains add up (optical density, or the logarithm of the
responses of the eye), a matrix and an offset act on them there, and they come back: three products per pixel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

StainMethod = Literal["macenko", "reinhard", "vahadane"]
METHODS = ("macenko", "reinhard", "vahadane")
#: Hematoxylin and eosin in red, green, blue, and the amounts that 1 % of pixels exceed, as Macenko's reference code has them.
PUBLISHED = {"macenko": (0.5626, 0.7201, 0.4062, 0.2159, 0.8012, 0.5581, 1.9705, 1.0308)}
WHITE = 240.0  # light that goes through glass, as published
WHITES = ("published", "section")
BETA = 0.15  # optical density below which, in any channel, a pixel is glass
_ALPHA = 1.0  # percent of the angles beyond each stain
_MOST = 99.0  # percentile of the amounts of a stain
_TISSUE_LEVEL = int(np.floor(WHITE * np.exp(-BETA) - 1))  # 205: the brightest channel of a pixel of tissue
_GLASS_SHARE = 0.02  # of a picture, that has the color of glass
_GLASS_NOISE = 6  # levels
_GLASS_DARKEST = 180  # channel of glass, however it is tinted
_BARE = 0.01  # share of tissue below which a tile is left as it is
_FEWEST = 500  # pixels of tissue
_GRAY = 2.0  # levels between the channels of a picture without color
_SPARSITY, _LEARNED_FROM, _STEPS = 0.1, 10_000, 100
# Ruderman's space, as Reinhard and others take it: responses of the three cones, and their logarithms turned.
_CONES = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_TURNED = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1, 1], [1, 1, -2], [1, -1, 0]])


@dataclass(frozen=True)
class Stain:
    """What the stains of a picture look like.

    Attributes
    ----------
    method
        How it was found.
    values
        `"macenko"` and `"vahadane"`: hematoxylin and eosin in optical density of red, green and blue (unit vectors), and
        the amount of each that 1 % of pixels exceed, 8 numbers, and 3 more where the light through glass is not 240 in red,
        green and blue, but the picture's own. `"reinhard"`: means and standard deviations of the three
        axes of Ruderman's color space, 6 numbers.
    """

    method: StainMethod
    values: tuple[float, ...]

    @property
    def matrix(self) -> np.ndarray:
        """Hematoxylin and eosin as columns (3, 2)."""
        return np.array(self.values[:6]).reshape(2, 3).T

    @property
    def amounts(self) -> np.ndarray:
        """Amounts (2,) that 1 % of pixels exceed."""
        return np.array(self.values[6:8])

    @property
    def light(self) -> np.ndarray:
        """Light (3,) that goes through glass."""
        return np.array(self.values[8:] or [WHITE] * 3)

    @property
    def digest(self) -> str:
        """Short digest of the method and the numbers."""
        text = " ".join([self.method, *(f"{value:.6g}" for value in self.values)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Recoloring:
    """From the stains of a picture to those of a reference.

    Attributes
    ----------
    source, reference
        Stains of the picture, and those that it is given.
    n_left
        Tiles that were left as they are, because less than 1 % of them is tissue.
    """

    source: Stain
    reference: Stain
    n_left: int = field(default=0, compare=False)

    @property
    def digest(self) -> str:
        """Digest of what it does."""
        return f"{self.source.digest} {self.reference.digest}"

    def tiles(self, tiles: torch.Tensor) -> torch.Tensor:
        """Tiles uint8 (b, 3, h, w) in the stains of the reference, on their device; of those without tissue the light alone."""
        import torch

        bare = bare_tiles(tiles, self.source)
        self.n_left += int(bare.sum())
        changed = self._changed(tiles)
        left = tiles[bare]
        ratio = torch.tensor(self.reference.light / self.source.light, dtype=torch.float32, device=tiles.device)
        if (ratio != 1).any():
            left = ((left.float() + 1) * ratio[:, None, None] - 1).round_().clamp_(0, 255).to(torch.uint8)
        changed[bare] = left
        return changed

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """All pixels uint8 (h, w, 3) in the stains of the reference."""
        import torch

        tiles = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
        return np.ascontiguousarray(self._changed(tiles)[0].permute(1, 2, 0).numpy())

    def _changed(self, tiles: torch.Tensor) -> torch.Tensor:
        import torch

        before, inner, offset, after = (torch.tensor(part, dtype=torch.float32) for part in self._parts())
        flat = tiles.flatten(2).float()
        before, inner, offset, after = (part.to(flat.device) for part in (before, inner, offset, after))
        if self.source.method == "reinhard":
            flat = before @ flat
        logs = torch.baddbmm(
            offset[:, None].expand(len(flat), 3, 1), inner.expand(len(flat), 3, 3), flat.add_(1).log_()
        )
        # A channel that would leave the range of numbers is black or white anyhow.
        flat = logs.clamp_(max=12).exp_().sub_(1)
        if self.source.method == "reinhard":
            flat = after @ flat
        return flat.round_().clamp_(0, 255).to(torch.uint8).reshape(tiles.shape)

    def _parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Matrix before the logarithm, matrix and offset on the logarithms, matrix after the exponential."""
        if self.source.method == "reinhard":
            mean, std = np.array(self.source.values).reshape(2, 3)
            wanted, spread = np.array(self.reference.values).reshape(2, 3)
            inner = np.linalg.inv(_TURNED) @ np.diag(spread / std) @ _TURNED
            offset = np.linalg.inv(_TURNED) @ (wanted - spread / std * mean)
            return _CONES, inner, offset, np.linalg.inv(_CONES)
        scale = np.diag(self.reference.amounts / self.source.amounts)
        inner = self.reference.matrix @ scale @ np.linalg.pinv(self.source.matrix)
        return np.eye(3), inner, np.log(self.reference.light) - inner @ np.log(self.source.light), np.eye(3)


def bare_tiles(tiles: torch.Tensor, stain: Stain) -> torch.Tensor:
    """Which tiles uint8 (b, 3, h, w) of a picture with this stain have less than 1 % of tissue (b,)."""
    import torch

    level = torch.tensor(_levels(stain.light), dtype=torch.uint8, device=tiles.device)
    dark = (tiles <= level[:, None, None]).all(dim=1)
    return dark.flatten(1).float().mean(dim=1) < _BARE


def _levels(light: np.ndarray) -> np.ndarray:
    """The brightest value of each channel (3,) of a pixel of tissue."""
    return np.floor(light * np.exp(-BETA) - 1)


def find_light(picture: np.ndarray) -> tuple[float, float, float]:
    """Light that goes through the glass of a picture uint8 (h, w, 3) of a whole section, in red, green and blue.

    The brightest color that at least 2 % of the pixels share, within six levels; what is white without any noise was filled
    in.

    Raises
    ------
    ValueError
        When there is no glass.
    """
    pixels = picture.reshape(-1, 3)
    pixels = pixels[pixels.min(axis=1) < 255]
    bright = np.round(pixels.mean(axis=1, dtype=np.float64)).astype(np.int64)
    count = np.convolve(np.bincount(bright, minlength=256), np.ones(5), "same")
    for level in range(255, _GLASS_DARKEST - 1, -1):
        if count[level] < max(
            _GLASS_SHARE * len(pixels), 1, count[max(level - _GLASS_NOISE, 0) : level + _GLASS_NOISE].max()
        ):
            continue  # on the way up to a peak
        light = np.median(pixels[np.abs(bright - level) <= _GLASS_NOISE // 2], axis=0)
        alike = (np.abs(pixels - light) <= _GLASS_NOISE).all(axis=1)
        if light.min() >= _GLASS_DARKEST and alike.mean() >= _GLASS_SHARE:
            red, green, blue = map(float, np.median(pixels[alike], axis=0))
            return red, green, blue
    raise ValueError("found no glass")


def find_stain(
    pixels: np.ndarray, method: StainMethod, *, light: tuple[float, float, float] | None = None, seed: int = 0
) -> Stain:
    """Stains of a picture.

    Parameters
    ----------
    pixels
        (n, 3) uint8, of tissue and of the glass between.
    method
        `"macenko"` :cite:p:`macenko2009`: the directions between which the optical densities of tissue lie, in the plane
        that holds most of them. `"vahadane"` :cite:p:`vahadane2016`: two nonnegative directions of which each pixel has a
        sparse mixture. `"reinhard"` :cite:p:`reinhard2001`: means and standard deviations of tissue in Ruderman's space.
    light
        Light that goes through glass; 240, as published, when `None`. `"reinhard"` has none.
    seed
        Random seed of `"vahadane"`, which learns from a part of the pixels.

    Raises
    ------
    ValueError
        When there is hardly any tissue, or no color.
    """
    through = np.full(3, WHITE) if light is None else np.array(light)
    tissue = pixels[(pixels <= _levels(through)).all(axis=1)]
    if len(tissue) < _FEWEST:
        raise ValueError(f"found {len(tissue)} pixels of tissue among {len(pixels)}")
    if np.mean(np.ptp(tissue.astype(np.int16), axis=1)) < _GRAY:
        raise ValueError("found a gray picture")
    if method == "reinhard":  # of all tissue: eosin alone leaves red bright, which has a density of next to nothing
        tissue = pixels[pixels.min(axis=1) <= _TISSUE_LEVEL]
        turned = np.log(tissue @ _CONES.T + 1) @ _TURNED.T
        return Stain(method, tuple(map(float, np.concatenate([turned.mean(axis=0), turned.std(axis=0)]))))
    density = _density(tissue, through)
    matrix = _extremes(density) if method == "macenko" else _sparse(density, seed)
    if matrix[0, 0] < matrix[0, 1]:  # hematoxylin takes more of the red light
        matrix = matrix[:, ::-1]
    amounts = np.percentile(_density(pixels, through) @ np.linalg.pinv(matrix).T, _MOST, axis=0)
    if np.linalg.matrix_rank(matrix, 1e-3) < 2 or (amounts <= 0).any():
        raise ValueError("found one stain, not two")
    return Stain(method, tuple(map(float, np.concatenate([matrix.T.ravel(), amounts, light or ()]))))


def mean_stain(stains: list[Stain], weights: np.ndarray) -> Stain:
    """Weighted mean of stains of one method, the directions of unit length."""
    mean = np.average([stain.values for stain in stains], axis=0, weights=weights)
    if stains[0].method != "reinhard":
        mean[:6] = (mean[:6].reshape(2, 3) / np.linalg.norm(mean[:6].reshape(2, 3), axis=1, keepdims=True)).ravel()
    return Stain(stains[0].method, tuple(map(float, mean)))


def _density(pixels: np.ndarray, light: np.ndarray | float = WHITE) -> np.ndarray:
    """Optical densities (n, 3)."""
    return np.asarray(-np.log((pixels.astype(np.float64) + 1) / light))


def _extremes(density: np.ndarray) -> np.ndarray:
    """Macenko: the directions (3, 2) between which nearly all pixels lie."""
    _, vectors = np.linalg.eigh(np.cov(density.T))
    plane = vectors[:, [2, 1]]
    # The sign of an eigenvector is arbitrary, but angles must not be cut where they jump.
    plane = plane * np.where(density.mean(axis=0) @ plane < 0, -1, 1)
    along = density @ plane
    angles = np.percentile(np.arctan2(along[:, 1], along[:, 0]), [_ALPHA, 100 - _ALPHA])
    return plane @ np.stack([np.cos(angles), np.sin(angles)])


def _sparse(density: np.ndarray, seed: int) -> np.ndarray:
    """Vahadane: two nonnegative directions (3, 2) of a sparse code."""
    from sklearn.decomposition import MiniBatchDictionaryLearning

    rng = np.random.default_rng(seed)
    some = density[rng.choice(len(density), min(len(density), _LEARNED_FROM), replace=False)]
    some = np.maximum(some, 0)
    start = np.maximum(_extremes(density), 0).T
    learned = MiniBatchDictionaryLearning(
        2, alpha=_SPARSITY, positive_dict=True, positive_code=True, fit_algorithm="cd", transform_algorithm="lasso_cd",
        batch_size=1024, max_iter=_STEPS, dict_init=np.ascontiguousarray(start), random_state=seed,
    ).fit(some)  # fmt: skip
    directions: Any = learned.components_.T
    norms = np.linalg.norm(directions, axis=0)
    if (norms < 1e-6).any():
        raise ValueError("found one stain, not two")
    return np.asarray(directions / norms)
