"""The embedded encoder: color, texture and nuclear statistics of a tile, without weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from stpredict.encoders._color_texture_names import (
    BLOB_SCALES,
    CLEAR_LEVELS,
    GRADIENT_SCALES,
    NUCLEAR_LEVELS,
    PATTERN_RADII,
    PEAK_LEVELS,
    PERCENTILES,
    color_texture_names,
)

_HEMATOXYLIN = (0.65, 0.70, 0.29)
_EOSIN = (0.07, 0.99, 0.11)
# Range of each channel in the histograms that percentiles are read from.
_LOW = (-0.5, -0.5, -1.0, 0.0, 0.0, 0.0, 0.0, -0.5, -0.5)
_HIGH = (2.5, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_BINS = 512
_PATTERN_TOLERANCE = 0.01  # optical density; below it lies the noise of JPEG in empty background
_VARIANCE_FLOOR = 1e-6


def _unmixing() -> Tensor:
    """(3, 3) from optical densities of R, G, B to those of hematoxylin, eosin and what neither explains."""
    hematoxylin, eosin = torch.tensor(_HEMATOXYLIN), torch.tensor(_EOSIN)
    hematoxylin, eosin = hematoxylin / hematoxylin.norm(), eosin / eosin.norm()
    residual = torch.linalg.cross(hematoxylin, eosin)
    return torch.linalg.inv(torch.stack([hematoxylin, eosin, residual / residual.norm()]).double()).float()


def _gaussian(side: int, sigma: float, step: int = 1) -> Tensor:
    """(side // step, side) matrix that smooths a line with reflected ends and samples it at every `step` pixels."""
    reach = math.ceil(4 * sigma) + step
    at = torch.arange(side // step, dtype=torch.float64)[:, None] * step + (step - 1) / 2
    source = torch.arange(-reach, side + reach, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((source - at) / sigma) ** 2)
    period = 2 * side
    folded = torch.remainder(source.long(), period)
    folded = torch.where(folded >= side, period - 1 - folded, folded)
    matrix = torch.zeros(side // step, side, dtype=torch.float64)
    matrix.index_add_(1, folded, weight)
    return (matrix / matrix.sum(dim=1, keepdim=True)).float()


def _smoothed(images: Tensor, kernels: Tensor) -> Tensor:
    """Images (b, c, side, side) under each kernel (k, out, side), along both axes: (b, c, k, out, out).

    As two large products, where a product for each image and kernel would copy both for every pair.
    """
    (batch, channels, side, _), (count, out, _) = images.shape, kernels.shape
    lines = kernels.reshape(-1, side) @ images.permute(2, 0, 1, 3).reshape(side, -1)
    smooth = torch.bmm(lines.reshape(count, out * batch * channels, side), kernels.mT)
    return smooth.reshape(count, out, batch, channels, out).permute(2, 3, 0, 1, 4).contiguous()


def _uniform_patterns() -> Tensor:
    """(256, 10) one-hot class of each 8-bit ring: number of ones where it has at most two changes, 9 elsewhere."""
    code = torch.arange(256)
    bits = (code[:, None] >> torch.arange(8)) & 1
    changes = (bits != bits.roll(1, dims=1)).sum(dim=1)
    return nn.functional.one_hot(torch.where(changes <= 2, bits.sum(dim=1), 9), 10).float()


def _disk(side: int) -> Tensor:
    """(side * side, 2) weights that average the central disk (half the side in diameter), and what surrounds it."""
    axis = torch.arange(side) - (side - 1) / 2
    inside = (axis[:, None] ** 2 + axis**2 <= (side / 4) ** 2).float().flatten()
    both = torch.stack([inside, 1 - inside], dim=1)
    return both / both.sum(dim=0)


def _moments(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and skewness over the last dimension; the skewness of a constant is 0."""
    mean = values.mean(dim=-1)
    centered = values - mean[..., None]
    square = centered * centered
    variance = square.mean(dim=-1)
    skewness = (square * centered).mean(dim=-1) / (variance + _VARIANCE_FLOOR) ** 1.5
    return mean, variance.sqrt(), skewness


def _log_energy(values: Tensor) -> Tensor:
    """log10 of the mean square over the two image dimensions."""
    return torch.log10((values * values).mean(dim=(-2, -1)) + _VARIANCE_FLOOR)


def _running_maximum(values: Tensor, window: int) -> Tensor:
    """Maximum over a centered odd window along the last dimension; the ends see less."""
    padded = nn.functional.pad(values, (window // 2, window // 2), value=-math.inf)
    covered = 1
    while covered < window:
        step = min(covered, window - covered)
        padded = torch.maximum(padded[..., :-step], padded[..., step:])
        covered += step
    return padded


class ColorTexture(nn.Module):
    """Color, texture and nuclear statistics of H&E tiles, as batched tensor operations.

    `forward` takes RGB in 0–1, float (b, 3, side, side), and returns (b, dim); dimensions are those of
    :func:`stpredict.encoders.color_texture_names`. Nothing is fitted: thresholds and scales are physical (optical
    density, pixels of about 1 µm).

    Parameters
    ----------
    side
        Side of a tile in pixels; divisible by 8.
    """

    unmixing: Tensor
    patterns: Tensor
    fine: Tensor
    coarse: Tensor
    disk: Tensor
    half_disk: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, side: int = 112) -> None:
        super().__init__()
        if side % 8:
            raise ValueError(f"expected a side divisible by 8; found {side}")
        self.side = side
        self.dim = len(color_texture_names())
        self.chunk = 8  # the intermediates of a chunk stay in the processor's cache
        for name, value in {
            "unmixing": _unmixing(),
            "patterns": _uniform_patterns(),
            "fine": torch.stack([_gaussian(side, sigma) for sigma in BLOB_SCALES[:3]]),
            "coarse": torch.stack([_gaussian(side, sigma, 2) for sigma in BLOB_SCALES[2:]]),
            "disk": _disk(side),
            "half_disk": _disk(side // 2),
            "low": torch.tensor(_LOW)[:, None],
            "high": torch.tensor(_HIGH)[:, None],
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, tiles: Tensor) -> Tensor:
        """Features (b, dim) of tiles (b, 3, side, side) with values in 0–1."""
        return torch.cat([self._features(part) for part in tiles.split(self.chunk)])

    def _features(self, tiles: Tensor) -> Tensor:
        batch, side = len(tiles), self.side
        rgb = tiles.reshape(batch, 3, side * side)
        density = -torch.log10((rgb * 255 + 1) / 256)
        stains = self.unmixing.T @ density
        channels = torch.cat([stains, rgb, self._chromaticity(rgb)], dim=1)
        two = stains[:, :2].reshape(batch, 2, side, side)

        fine = _smoothed(two, self.fine)  # (b, 2, 3, side, side)
        coarse = _smoothed(two, self.coarse)  # (b, 2, 4, side / 2, side / 2)
        fine_blobs = fine[:, :, :-1] - fine[:, :, 1:]
        coarse_blobs = coarse[:, :, :-1] - coarse[:, :, 1:]
        parts = [
            self._distributions(channels).flatten(1),
            *(self._pattern(fine[:, 0, 0], radius) for radius in PATTERN_RADII),
            torch.cat([_log_energy(fine_blobs), _log_energy(coarse_blobs)], dim=2).flatten(1),
            torch.cat([_moments(fine_blobs.flatten(3))[2], _moments(coarse_blobs.flatten(3))[2]], dim=2).flatten(1),
            *(self._gradients(fine[:, :, BLOB_SCALES.index(scale)]) for scale in GRADIENT_SCALES),
            self._above(fine[:, 0, 0], NUCLEAR_LEVELS),
            self._peaks(fine_blobs[:, 0, -1], 7),
            self._peaks(coarse_blobs[:, 0, 0], 5),
            1 - self._above(density.mean(dim=1), CLEAR_LEVELS),
            self._center(channels, coarse_blobs[:, :, 0]),
            self._blocks(stains).std(dim=-1, correction=0),
        ]
        return torch.cat(parts, dim=1)

    @staticmethod
    def _chromaticity(rgb: Tensor) -> Tensor:
        """Saturation, red-green and yellow-blue differences relative to brightness, (b, 3, n)."""
        red, green, blue = rgb.unbind(dim=1)
        largest, smallest = (
            torch.maximum(torch.maximum(red, green), blue),
            torch.minimum(torch.minimum(red, green), blue),
        )
        total = red + green + blue + 1e-2
        saturation = (largest - smallest) / (largest + 1e-2)
        return torch.stack([saturation, (red - green) / total, (0.5 * (red + green) - blue) / total], dim=1)

    def _distributions(self, channels: Tensor) -> Tensor:
        """Mean, standard deviation, skewness and percentiles per channel, (b, channels, 8)."""
        batch, count, n = channels.shape
        # Percentiles come from a fine histogram: sorting every channel would take most of the time of this encoder.
        level = ((channels - self.low) * (_BINS / (self.high - self.low))).clamp_(0, _BINS - 1).to(torch.int32)
        row = torch.arange(batch * count, device=channels.device, dtype=torch.int32).reshape(batch, count, 1)
        histogram = torch.bincount((level + row * _BINS).flatten(), minlength=batch * count * _BINS)
        histogram = histogram.reshape(batch, count, _BINS)
        below = histogram.cumsum(dim=-1).float() / n
        levels = torch.tensor(PERCENTILES, device=channels.device, dtype=below.dtype) / 100
        at = torch.searchsorted(below, levels.expand(batch, count, -1).contiguous()).clamp_(max=_BINS - 1)
        share = histogram.gather(-1, at).float() / n
        within = (levels - (below.gather(-1, at) - share)) / share.clamp(min=1 / n)
        percentiles = self.low + (at + within) * ((self.high - self.low) / _BINS)
        return torch.cat([torch.stack(_moments(channels), dim=-1), percentiles], dim=-1)

    def _pattern(self, image: Tensor, radius: int) -> Tensor:
        """Histogram of rotation-invariant uniform local binary patterns, (b, 10)."""
        diagonal = max(1, round(radius / math.sqrt(2)))
        ring = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
        inner = self.side - 2 * radius
        center = image[:, radius:-radius, radius:-radius] + _PATTERN_TOLERANCE
        code = torch.zeros(center.shape, dtype=torch.uint8, device=image.device)
        for bit, (down, right) in enumerate(ring):
            step = diagonal if down and right else radius
            top, left = radius + step * down, radius + step * right
            code += (image[:, top : top + inner, left : left + inner] > center).to(torch.uint8) * (1 << bit)
        row = torch.arange(len(image), device=image.device, dtype=torch.int32)[:, None] * 256
        histogram = torch.bincount((code.flatten(1).to(torch.int32) + row).flatten(), minlength=len(image) * 256)
        return histogram.reshape(-1, 256).float() @ self.patterns / inner**2

    @staticmethod
    def _gradients(images: Tensor) -> Tensor:
        """Mean magnitude, log energy and coherence of the gradient of (b, 2, h, w), (b, 6)."""
        across = (images[..., 1:-1, 2:] - images[..., 1:-1, :-2]) / 2
        along = (images[..., 2:, 1:-1] - images[..., :-2, 1:-1]) / 2
        square_x, square_y = across * across, along * along
        total = square_x + square_y
        energy = total.mean(dim=(-2, -1))
        difference = (square_x - square_y).mean(dim=(-2, -1))
        mixed = 2 * (across * along).mean(dim=(-2, -1))
        # The floor makes the direction of noise in an empty tile vanish instead of being divided up.
        coherence = torch.sqrt(difference**2 + mixed**2) / (energy + _VARIANCE_FLOOR)
        return torch.cat([total.sqrt().mean(dim=(-2, -1)), torch.log10(energy + _VARIANCE_FLOOR), coherence], dim=1)

    @staticmethod
    def _above(values: Tensor, levels: tuple[float, ...]) -> Tensor:
        """Fraction of pixels above each level, (b, levels)."""
        flat = values.flatten(1)
        return torch.stack([torch.count_nonzero(flat > level, dim=1) / flat.shape[1] for level in levels], dim=1)

    def _peaks(self, blobs: Tensor, window: int) -> Tensor:
        """Local maxima of a blob response above each level, per 1000 analysis pixels, (b, levels)."""
        highest = _running_maximum(_running_maximum(blobs, window).mT, window).mT
        response = torch.where(blobs == highest, blobs, 0.0)
        return self._above(response, PEAK_LEVELS) * (1000 * response[0].numel() / self.side**2)

    def _center(self, channels: Tensor, blobs: Tensor) -> Tensor:
        """Central disk against surround: four channels and the blob energy of two stains, (b, 6)."""
        near, far = (channels[:, [0, 1, 2, 6]] @ self.disk).unbind(dim=-1)
        contrast = near - far
        near, far = ((blobs * blobs).flatten(2) @ self.half_disk).unbind(dim=-1)
        return torch.cat([contrast, torch.log10((near + _VARIANCE_FLOOR) / (far + _VARIANCE_FLOOR))], dim=1)

    def _blocks(self, stains: Tensor) -> Tensor:
        """Means of 4 x 4 blocks of each stain, (b, 3, 16)."""
        part = self.side // 4
        return stains.reshape(len(stains), 3, 4, part, 4, part).mean(dim=(3, 5)).flatten(2)
