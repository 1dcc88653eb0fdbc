"""Expected expression of the tiles of a synthetic slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


def expected_tiles(adata: AnnData, slide: str) -> np.ndarray:
    """Compute the true expression of each tile of a slide of :func:`stpredict.datasets.synthetic_slides`.

    This is the truth of a predicted map. Tiles lie on the lattice of 128 µm that starts at the top left corner of the
    slide, so that tile `(row, column)` covers x from `column * 128` to `(column + 1) * 128` µm. The mean over tiles,
    weighted by the area of their tissue, is the expected bulk expression of the slide, which is `layers["expected"]`
    where the patient has one slide.

    Parameters
    ----------
    adata
        Slides from :func:`stpredict.datasets.synthetic_slides`; genes and slides may have been selected.
    slide
        Name of a slide.

    Returns
    -------
    Expected expression (rows, columns, n_genes) float32, linear as in `layers["expected"]`, without noise; NaN where a
    tile holds no tissue.

    Raises
    ------
    KeyError
        When the object does not come from :func:`stpredict.datasets.synthetic_slides`, or holds no such slide.

    Examples
    --------
    >>> import tempfile
    >>> import stpredict as stp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     adata = stp.datasets.synthetic_slides(1, 1, 12, image_dir=folder, slide_um=400, microns_per_pixel=4)
    >>> stp.datasets.expected_tiles(adata, "P1_S1").shape[-1]
    12
    """
    from stpredict.datasets._bulk import tile_expression

    truth = adata.uns.get("synthetic_slides")
    if truth is None or "profile" not in adata.varm or "context" not in adata.varm:
        raise KeyError(
            "expected uns['synthetic_slides'], varm['profile'] and varm['context']; "
            f"found {sorted(adata.uns)} and {sorted(adata.varm)}; make the slides with stp.datasets.synthetic_slides"
        )
    composition = truth["composition"]
    if slide not in composition:
        raise KeyError(f"expected a slide among {', '.join(list(composition)[:5])}, …; found {slide!r}")
    profile, context = (np.asarray(adata.varm[key], dtype=float) for key in ("profile", "context"))
    return tile_expression(np.asarray(composition[slide]), profile, context).astype(np.float32)
