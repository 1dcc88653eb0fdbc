"""Classes of patients by the centroid that their expression resembles most, such as PAM50."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._gene_sets import kinds_in_words
from stpredict.core._validate import check_choice, check_unique, few
from stpredict.slots._container import begin
from stpredict.slots._keys import Key, check_key
from stpredict.slots._outcome import patients_of
from stpredict.slots._profiles import Use, expression_frame, names_at_hand
from stpredict.slots._provenance import write_record
from stpredict.tl.outcomes._risk_score import standardized

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

_FEWEST = 3  # genes to correlate


def nearest_centroid(
    data: Container,
    centroids: pd.DataFrame,
    *,
    weights: Mapping[str, float] | None = None,
    correlation: str = "spearman",
    scale: str = "cohort",
    use: Use = "measured",
    key: str = Key.PREDICTED,
    layer: str | None = None,
    min_fraction: float = 0.8,
    key_added: str = "centroid",
    copy: bool = False,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Assign patients to the centroid with the highest correlation over genes :cite:p:`parker2009`.

    Parameters
    ----------
    data
        One row per slide (or patient), with measured or predicted expression.
    centroids
        Genes in the index, a column per class: PAM50, for example.
    weights
        Weight of each class in a risk, the weighted sum of the correlations: for the risk of relapse by subtype
        :cite:p:`parker2009` `{"Basal": 0.05, "Her2": 0.12, "LumA": -0.34, "LumB": 0.23}`.
    correlation
        `"spearman"` or `"pearson"`.
    scale
        `"cohort"` takes each gene relative to its mean over patients, in standard deviations, as centroids of relative
        expression ask for; the classes then depend on who the patients are: in a cohort of one class they are split all
        the same. `"none"` takes values as they are.
    use
        Expression to read: `"measured"`, or `"predicted"` for `obsm[key]`.
    key
        Slot of the prediction in `obsm`.
    layer
        Layer with the measured values, on a log scale; `X` by default.
    min_fraction
        Least share of the genes that must be there.
    key_added
        Beginning of what is written.
    copy
        Whether to return a changed copy instead of changing `data`.
    patient_key
        Column of `obs` with the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obs["{key_added}_class"]`: the class with the highest correlation, categorical; missing without expression;
    - `obsm["{key_added}_r"]` (n_obs, n_classes), with names in `uns["{key_added}_r_names"]`: the correlations;
    - `obs["{key_added}_risk"]` with `weights`;
    - `uns["stpredict"][key_added]`: genes `used` and `missing`, the `fraction` used.

    Raises
    ------
    KeyError
        When the expression or the patients are missing, or `weights` names no class.
    ValueError
        When less than `min_fraction` of the genes is there, or genes or classes repeat.
    TypeError
        When the centroids are no table of numbers, or `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When genes are missing.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> centroids = pd.DataFrame({"A": [1.0, 0, -1], "B": [-1.0, 0, 1]}, index=["G1", "G2", "G3"])
    >>> slides = ad.AnnData(np.array([[5.0, 3, 1], [1, 3, 5]]), var=pd.DataFrame(index=["G1", "G2", "G3"]))
    >>> slides.obs["patient"] = ["p1", "p2"]
    >>> stp.tl.nearest_centroid(slides, centroids, scale="none")
    >>> slides.obs["centroid_class"].tolist()
    ['A', 'B']
    """
    import pandas as pd

    from stpredict import metrics

    check_key(key_added)
    check_choice(correlation, ("spearman", "pearson"), "correlation")
    check_choice(scale, ("cohort", "none"), "scale")
    check_choice(use, ("measured", "predicted"), "use")
    if not isinstance(centroids, pd.DataFrame) or not all(
        pd.api.types.is_numeric_dtype(kind) for kind in centroids.dtypes
    ):
        raise TypeError("expected centroids as a DataFrame of numbers, genes in its index and a column per class")
    check_unique(centroids.index, "genes of the centroids")
    check_unique(centroids.columns, "classes")
    unknown = sorted(set(weights or {}) - set(map(str, centroids.columns)))
    if unknown:
        raise KeyError(f"expected weights of classes among {few(centroids.columns)}; found {few(unknown)}")
    container, adata = begin(data, copy, table_key, *([key] if use == "predicted" else []))
    people = patients_of(adata, patient_key)
    names = [str(name) for name in centroids.index]
    frame, there = expression_frame(adata, use, key, layer, names)
    missing = [name for name in names if name not in frame.columns]
    fraction = 1 - len(missing) / len(names)
    told = f"{len(missing)} of {len(names)} genes missing: {few(missing, 20)}"
    if fraction < min_fraction or frame.shape[1] < _FEWEST:
        raise ValueError(
            f"expected at least {min_fraction:.0%} of the genes of the centroids, and {_FEWEST}, among those with {use} expression; "
            f"found {fraction:.0%}, {told}{kinds_in_words(names, names_at_hand(adata, use, key), 'centroids')}; name genes as the centroids do, or lower `min_fraction`"
        )
    if missing:
        warnings.warn(f"{fraction:.0%} of the genes of the centroids are used, {told}", stacklevel=2)
    values = frame.to_numpy()
    if scale == "cohort":
        values = standardized(values, people, there)
    target = centroids.set_axis(names).loc[list(frame.columns)].to_numpy(dtype=np.float64)
    correlate = getattr(metrics, correlation)
    r = np.full((adata.n_obs, target.shape[1]), np.nan)
    known = np.isfinite(values)
    patterns, which = np.unique(known[there], axis=0, return_inverse=True)
    rows = np.flatnonzero(there)
    for number, pattern in enumerate(patterns):  # slides that lack the same genes
        if pattern.sum() < _FEWEST:
            continue
        here = rows[which.ravel() == number]
        for column in range(target.shape[1]):
            y = values[here][:, pattern].T
            r[here, column] = correlate(np.repeat(target[pattern, column][:, None], len(here), axis=1), y)
    classes = [str(name) for name in centroids.columns]
    defined = ~np.isnan(r).any(axis=1)
    best = np.where(defined, np.nan_to_num(r, nan=-2.0).argmax(axis=1), -1)
    adata.obs[f"{key_added}_class"] = pd.Categorical.from_codes(best.tolist(), categories=pd.Index(classes))
    adata.obsm[f"{key_added}_r"] = r
    adata.uns[f"{key_added}_r_names"] = np.array(classes)
    if weights is not None:
        adata.obs[f"{key_added}_risk"] = r @ np.array([float(weights.get(name, 0.0)) for name in classes])
    record = {
        "used": list(frame.columns), "missing": missing, "fraction": fraction, "correlation": correlation, "scale": scale,
        "use": use, "key": key if use == "predicted" else None, "layer": layer, "weights": dict(weights) if weights else None,
    }  # fmt: skip
    write_record(adata, key_added, record)
    return container if copy else None
