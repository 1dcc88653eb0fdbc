"""Spatial domains from predicted or measured expression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._palette import category_colors
from stpredict.core._progress import steps
from stpredict.core._validate import check_choice, check_finite, check_positive
from stpredict.slots._checks import check_obs
from stpredict.slots._container import begin
from stpredict.slots._keys import Key, check_column
from stpredict.slots._prediction import of_all_folds, prediction_frame
from stpredict.slots._provenance import genes_digest, write_record
from stpredict.slots._truth import measured_of
from stpredict.tl.biology._cluster import (
    check_smooth,
    cluster,
    neighbor_graph,
    neighbor_means,
    principal_components,
    smoothed,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

_FOLLOWS = 0.5  # normalized mutual information of domains and folds from which on they are the same thing


def domains(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    use: Literal["predicted", "measured"] = "predicted",
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    n_domains: int | None = None,
    resolution: float = 1.0,
    n_pcs: int = 50,
    n_neighbors: int = 15,
    smooth: float = 0.0,
    min_size: int = 0,
    label_key: str | None = None,
    sample_key: str = Key.SAMPLE,
    per_sample: bool = False,
    seed: int = 0,
    key_added: str = Key.DOMAIN,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Cluster observations into domains: principal components, nearest neighbors, Leiden :cite:p:`traag2019`.

    Positions are used with `smooth` only. Labels never choose the resolution: `n_domains` alone does, and agreement with
    `label_key` is computed once, on the result.

    Parameters
    ----------
    data
        AnnData or SpatialData with predicted (or measured, normalized) expression.
    key
        Slot of the prediction in `obsm`. With `use="measured"` it only supplies the genes.
    use
        Expression to cluster: `"predicted"` for `obsm[key]`, `"measured"` for the measured expression.
    genes
        Genes to use; when `None`, those of the prediction (of one by folds that chose genes of their own, those that
        every fold predicted), or all variables where there is no prediction and `use="measured"`.
    layer
        Layer with the measured values; `X` by default.
    n_domains
        Number of domains; the resolution is then searched by bisection, and `resolution` is not used.
    resolution
        Resolution of Leiden when `n_domains` is not given.
    n_pcs
        Number of principal components, lowered where there are fewer genes or observations.
    n_neighbors
        Number of neighbors in the graph, lowered where there are fewer observations.
    smooth
        Weight, from 0 to below 1, of the mean of the spatial neighbors in the components of each observation, before nearest
        neighbors are looked for: 0.5 takes half from the observation and half from the up to eight around it in its
        section. Domains then hang together in space, also where there are none: see :func:`stpredict.tl.domain_stability`.
    min_size
        Number of observations below which a domain is merged into the one with the most similar mean components.
    label_key
        Column of `obs` with annotated regions to compare with. Missing labels and `"undetermined"` are left out.
    sample_key
        Column of `obs` that names the section, read with `per_sample` and `smooth`.
    per_sample
        Whether to cluster each section on its own. Domains are then named `"{sample}:{number}"` and do not correspond
        between sections.
    seed
        Random seed for the principal components, the neighbors and Leiden.
    key_added
        Name of the result in `obs`, and of its record in `uns["stpredict"]`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obs[key_added]`: domain of each observation, categorical,
    - `uns["{key_added}_colors"]`: a color per domain, which scanpy, squidpy and :func:`stpredict.pl.domains` draw it in,
    - `obsm["{key}_pca"]` (`obsm["measured_pca"]` with `use="measured"`): principal components (n_obs, n_pcs), float32;
      with `per_sample` those of each section, NaN beyond a small section's number; with `smooth` the smoothed ones,
    - `uns["stpredict"][key_added]`: parameters, with `min_size` the numbers of observations that were merged and the
      domain they went to (`merged_n`, `merged_into`), `resolution` and number of domains `n_found` (with `per_sample` one per
      section in `samples`), and with `label_key` the adjusted Rand index `ari`, the normalized mutual information
      `nmi` and the number of observations left out of both, `n_unlabeled`. With `per_sample`, `ari` and `nmi` hold one
      value per section, NaN without labels.

    Raises
    ------
    KeyError
        When the prediction, a gene, the labels or the sections are missing.
    ValueError
        When values are not finite, or there are too few observations or genes; or when the genes of the prediction are
        not known.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When no resolution gives `n_domains` domains; the nearest number is kept. When `min_size` leaves one domain. When
        the prediction is one of several folds, and domains follow these: each fold has a model of its own, and where little can
        be predicted, what differs between models is more than what differs between places.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> adata = ad.AnnData(np.zeros((60, 0)))
    >>> values = rng.normal(np.repeat([[0.0], [5.0]], 30, axis=0), 1, (60, 8))
    >>> adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, list("ABCDEFGH"))
    >>> stp.tl.domains(adata, n_domains=2)
    >>> adata.obs["domain"].value_counts().tolist()
    [30, 30]
    """
    import pandas as pd

    check_column(key_added)
    check_choice(use, ("predicted", "measured"), "use")
    check_positive(resolution, "resolution")
    check_smooth(smooth)
    if int(min_size) != min_size or min_size < 0:
        raise ValueError(f"expected min_size to be a whole number of observations, 0 or more; found {min_size!r}")
    for value, name in ((n_domains, "n_domains"), (n_pcs, "n_pcs"), (n_neighbors, "n_neighbors")):
        if value is not None and value < 1:
            raise ValueError(f"expected {name} to be at least 1; found {value}")
    container, adata = begin(data, copy, table_key, *([key] if use == "predicted" else []))
    matrix, names = expression_matrix(adata, key, use, genes, layer)
    stored = matrix.data if hasattr(matrix, "toarray") else matrix
    check_finite(np.atleast_1d(stored), f"{use} expression", "leave out observations without it: adata[mask]")
    if label_key is not None:
        check_obs(adata, label_key, "pass the annotated regions with `label_key=`")
    samples: list[str] = []
    groups = [np.arange(adata.n_obs)]
    if per_sample:
        check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
        codes, unique = pd.factorize(adata.obs[sample_key].astype(str))
        samples, groups = list(unique), [np.flatnonzero(codes == code) for code in range(len(unique))]
    for index, rows in enumerate(groups):
        if len(rows) < 3 or matrix.shape[1] < 2:
            where = f" in section {samples[index]!r}" if per_sample else ""
            raise ValueError(
                f"expected at least 3 observations and 2 genes{where}; found {len(rows)} and {matrix.shape[1]}"
            )

    assigned = np.empty(adata.n_obs, dtype=object)
    components = np.full((adata.n_obs, min(n_pcs, matrix.shape[1] - 1)), np.nan, dtype=np.float32)
    resolutions, numbers = [], []
    merges: list[tuple[str, int]] = []
    weights = neighbor_means(adata, sample_key, "smooth") if smooth else None
    for index, rows in enumerate(steps(groups, "domains", compiled_by="pynndescent")):
        pca = smoothed(principal_components(matrix[rows], n_pcs, seed), weights, rows, smooth)
        graph = neighbor_graph(pca, n_neighbors, seed)
        label, used, merged = cluster(graph, pca, n_domains, resolution, int(min_size), seed)
        prefix = f"{samples[index]}:" if per_sample else ""
        assigned[rows] = [f"{prefix}{name}" for name in label]
        merges += [(f"{prefix}{into}", n) for into, n in merged]
        components[rows, : pca.shape[1]] = pca
        resolutions.append(used)
        numbers.append(len(np.unique(label)))
        if merged and numbers[-1] == 1:
            warnings.warn(f"min_size={min_size} left one domain; lower it", stacklevel=2)
        if n_domains is not None and numbers[-1] != n_domains:
            where = f" in section {samples[index]!r}" if per_sample else ""
            warnings.warn(
                f"no resolution gave {n_domains} domains{where}; kept the nearest number, {numbers[-1]}", stacklevel=2
            )
    components = components[:, ~np.isnan(components).all(axis=0)]
    if use == "predicted":
        _compare_with_folds(adata, key, assigned, groups)

    agreement: dict[str, Any] = {}
    if label_key is not None:
        agreement = _agreement(adata, assigned, label_key, groups)
    one = not per_sample
    record = {
        "key": key if use == "predicted" else None,
        "use": use,
        "layer": layer,
        "n_genes": len(names),
        "genes_digest": genes_digest(names),
        "n_pcs": components.shape[1],
        "n_neighbors": n_neighbors,
        "smooth": float(smooth),
        "min_size": int(min_size),
        "merged_into": [name for name, _ in merges] or None,
        "merged_n": [n for _, n in merges] or None,
        "per_sample": per_sample,
        "samples": samples or None,
        "n_domains": n_domains,
        "n_found": numbers[0] if one else numbers,
        "resolution": resolutions[0] if one else resolutions,
        "seed": seed,
        "label_key": label_key,
        **{name: value[0] if one and isinstance(value, list) else value for name, value in agreement.items()},
    }
    categories = sorted(set(assigned), key=_natural)
    adata.obs[key_added] = pd.Categorical(assigned, categories=categories)
    adata.uns[Key.colors(key_added)] = category_colors(len(categories))
    adata.obsm[Key.pca(key if use == "predicted" else Key.MEASURED)] = components
    write_record(adata, key_added, record)
    return container if copy else None


def expression_matrix(
    adata: AnnData, key: str, use: str, genes: Sequence[str] | None, layer: str | None
) -> tuple[Any, list[str]]:
    """Matrix to cluster (n_obs, n_genes) and its genes."""
    if use == "predicted":
        frame = prediction_frame(adata, key, genes)
        if genes is None:
            frame = of_all_folds(frame, key)
        return frame.to_numpy(), list(frame.columns)
    if genes is None:
        genes = list(prediction_frame(adata, key).columns) if key in adata.obsm else list(adata.var_names)
    return measured_of(adata, key, list(genes), layer), list(genes)


def _compare_with_folds(adata: AnnData, key: str, assigned: np.ndarray, groups: list[np.ndarray]) -> None:
    """Warn where domains are those parts that were predicted by one model."""
    from sklearn.metrics import normalized_mutual_info_score

    if (column := Key.fold(key)) not in adata.obs:
        return
    folds = adata.obs[column].astype(str).to_numpy()
    several = [rows for rows in groups if len(np.unique(folds[rows])) > 1]
    shared = [float(normalized_mutual_info_score(folds[rows], assigned[rows].astype(str))) for rows in several]
    if shared and max(shared) >= _FOLLOWS:
        warnings.warn(
            f"the domains follow the folds in obs[{column!r}] (normalized mutual information {max(shared):.2f}): each fold has a "
            "model of its own, and models differ more than places do; take the prediction of one model (stp.tl.fit, "
            'stp.tl.predict), or use="measured"',
            stacklevel=3,
        )


def region_labels(adata: AnnData, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """Label of each observation (n_obs,) and which have one: neither missing nor `"undetermined"`."""
    column = adata.obs[label_key]
    text = column.astype(str).str.strip()
    labeled = column.notna() & (text != "") & (text.str.lower() != "undetermined")
    return text.to_numpy().astype(str), labeled.to_numpy()


def _agreement(adata: AnnData, assigned: np.ndarray, label_key: str, groups: list[np.ndarray]) -> dict[str, Any]:
    """Adjusted Rand index and normalized mutual information with annotated regions, per group of observations."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    text, labeled = region_labels(adata, label_key)
    ari, nmi = [], []
    for rows in groups:
        labeled_rows = rows[labeled[rows]]
        labels, ours = text[labeled_rows], assigned[labeled_rows].astype(str)
        ari.append(float(adjusted_rand_score(labels, ours)) if len(labeled_rows) else float("nan"))
        nmi.append(float(normalized_mutual_info_score(labels, ours)) if len(labeled_rows) else float("nan"))
    return {"ari": ari, "nmi": nmi, "n_unlabeled": int((~labeled).sum())}


def _natural(name: str) -> tuple[str, int]:
    """Sort `"2"` before `"10"`, within each section."""
    section, _, number = name.rpartition(":")
    return section, int(number)
