"""What each dimension of the color-texture encoder is: the one list that the network and its documentation share."""

from __future__ import annotations

CHANNELS = (
    "hematoxylin",
    "eosin",
    "residual",
    "red",
    "green",
    "blue",
    "saturation",
    "red_green",
    "yellow_blue",
)
PERCENTILES = (5, 25, 50, 75, 95)
PATTERN_RADII = (1, 2, 4)
BLOB_SCALES = (1.0, 1.6, 2.5, 4.0, 6.3, 10.0)
GRADIENT_SCALES = (1.0, 2.5)
NUCLEAR_LEVELS = (0.1, 0.2, 0.35, 0.5)
PEAK_LEVELS = (0.02, 0.05)
CLEAR_LEVELS = (0.05, 0.1)
BLOCKED = ("hematoxylin", "eosin", "residual")


def color_texture_names() -> list[str]:
    """Name every dimension of the `"color-texture"` encoder.

    Lengths in names are in analysis pixels, which are 1 µm at the default field of view of 112 µm.

    - `{channel}_mean`, `_sd`, `_skewness`, `_p05` … `_p95`: distribution of hematoxylin, eosin and residual optical
      density (log10) after color deconvolution with the vectors of :cite:t:`ruifrok2001`, of red, green and blue in
      0–1, of saturation, and of the red-green and yellow-blue chromaticities.
    - `pattern_r{radius}_{k}`: fraction of pixels with each rotation-invariant uniform local binary pattern
      :cite:p:`ojala2002` of hematoxylin; `k` from 0 to 8 is the number of darker neighbors, 9 gathers the non-uniform.
    - `{stain}_blob_{a}_{b}_energy`, `_skewness`: log10 mean square and skewness of the difference of Gaussians with
      standard deviations a and b: how much structure there is of that size, and whether it is dark on light.
    - `{stain}_gradient_{scale}_mean`, `_energy`, `_coherence`: mean and log10 mean square of the gradient magnitude,
      and the anisotropy of the structure tensor (0 no direction, 1 all edges parallel).
    - `nuclear_fraction_{level}`: fraction of pixels whose smoothed hematoxylin exceeds a level;
      `nuclear_peaks_{a}_{level}`: blob centers per 1000 pixels above a level; `clear_fraction_{level}`: fraction of
      pixels below a total optical density.
    - `{channel}_center_minus_surround`: mean within the central disk (half the side in diameter) minus the mean
      outside; `{stain}_center_blob_ratio`: log10 ratio of blob energy in and outside the disk.
    - `{stain}_blocks_sd`: standard deviation of the means of 4 x 4 blocks.

    Returns
    -------
    The names, in the order of the feature vector.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.encoders.color_texture_names()[:2]
    ['hematoxylin_mean', 'hematoxylin_sd']
    """
    statistics = ["mean", "sd", "skewness", *(f"p{p:02d}" for p in PERCENTILES)]
    names = [f"{channel}_{statistic}" for channel in CHANNELS for statistic in statistics]
    names += [f"pattern_r{radius}_{k}" for radius in PATTERN_RADII for k in range(10)]
    bands = [f"{a:g}_{b:g}" for a, b in zip(BLOB_SCALES[:-1], BLOB_SCALES[1:], strict=True)]
    stains = CHANNELS[:2]
    names += [f"{stain}_blob_{band}_{what}" for what in ("energy", "skewness") for stain in stains for band in bands]
    names += [
        f"{stain}_gradient_{scale:g}_{what}"
        for scale in GRADIENT_SCALES
        for what in ("mean", "energy", "coherence")
        for stain in stains
    ]
    names += [f"nuclear_fraction_{level:g}" for level in NUCLEAR_LEVELS]
    names += [f"nuclear_peaks_{scale}_{level:g}" for scale in ("small", "large") for level in PEAK_LEVELS]
    names += [f"clear_fraction_{level:g}" for level in CLEAR_LEVELS]
    names += [f"{channel}_center_minus_surround" for channel in ("hematoxylin", "eosin", "residual", "saturation")]
    names += [f"{stain}_center_blob_ratio" for stain in stains]
    return names + [f"{channel}_blocks_sd" for channel in BLOCKED]
