"""One picture of simulated tissue whose nuclei are known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_positive
from stpredict.datasets._synthetic_cohort import check_count, check_range, generator

if TYPE_CHECKING:
    import pandas as pd

_GRID_UM = 2.0


def synthetic_nuclei(
    side_um: float = 600.0,
    *,
    microns_per_pixel: float = 0.5,
    density: float = 1.0,
    stain_shift: float = 0.12,
    seed: int = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Simulate a stained section and tell where each of its nuclei is.

    The tissue is that of :func:`stpredict.datasets.synthetic_cohort`: tumor glands, collagen, lymphocytes and fat cells
    in hematoxylin and eosin. The truth serves to judge a segmentation.

    Parameters
    ----------
    side_um
        Width of the tissue in µm; some glass lies around it.
    microns_per_pixel
        Resolution of the picture.
    density
        Factor for the number of nuclei that are tried. Nuclei hardly overlap, so that there is less than twice as many
        of them at 2.
    stain_shift
        Standard deviation of the log strength of each stain; stain vectors and background vary in proportion.
    seed
        Random seed.

    Returns
    -------
    The picture, RGB uint8 (height, width, 3), and a table with a row per nucleus: `x` and `y` of its center in pixels, and
    `kind` (`"tumor"`, `"lymphocyte"`, `"fibroblast"` or `"adipocyte"`).

    Raises
    ------
    ValueError
        When a number is out of range.
    TypeError
        When `seed` is not a whole number.

    Examples
    --------
    >>> import stpredict as stp
    >>> image, nuclei = stp.datasets.synthetic_nuclei(200, microns_per_pixel=1.0)
    >>> image.dtype.name, sorted(nuclei.columns)
    ('uint8', ['kind', 'x', 'y'])
    """
    import pandas as pd

    from stpredict.datasets._histology import draw_stain, render_with_nuclei
    from stpredict.datasets._tissue import CLASSES, plan_slide, plan_tissue

    side_um, mpp = check_positive(side_um, "side_um"), check_positive(microns_per_pixel, "microns_per_pixel")
    density, stain_shift = check_range(density, "density"), check_range(stain_shift, "stain_shift", 1)
    seed = check_count(seed, "seed", lowest=0)
    rng = generator(seed, 0)
    layout = plan_slide(side_um, side_um / 20, rng)
    plan = plan_tissue(layout, max(_GRID_UM, mpp), np.zeros(len(CLASSES)), rng)
    plan = replace(plan, density={name: chance * np.float32(density) for name, chance in plan.density.items()})
    stain = draw_stain(stain_shift, generator(seed, 1))
    image, xy, kind = render_with_nuclei(plan, layout.size_um, mpp, stain, generator(seed, 2))
    x, y = xy.T / mpp
    return image, pd.DataFrame({"x": x, "y": y, "kind": pd.Categorical(kind)})
