"""How well domains agree with annotated regions, over seeds and beside references that read no expression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._settings import settings
from stpredict.core._validate import check_choice, check_finite
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.tl.biology._cluster import cluster, neighbor_graph, principal_components
from stpredict.tl.biology._domains import expression_matrix, region_labels
from stpredict.tl.judge._cluster_agreement import adjusted_rand, contingency_tables
from stpredict.tl.judge._spatial_null import displaced

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

_COLUMNS = [
    "sample", "ari", "ari_sd", "nmi", "nmi_sd", "ari_shuffled", "nmi_shuffled", "ari_rotated", "nmi_rotated",
    "ari_positions", "nmi_positions", "n_domains", "n_found", "n_labeled", "n_obs", "n_seeds",
]  # fmt: skip
_SHOWN = ("sample", "ari", "ari_shuffled", "ari_rotated", "ari_positions", "nmi", "n_domains", "n_found", "n_labeled")


def domain_agreement(
    data: Container,
    label_key: str,
    *,
    key: str = Key.PREDICTED,
    use: Literal["predicted", "measured"] = "predicted",
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    n_domains: int | None = None,
    n_pcs: int = 50,
    n_neighbors: int = 15,
    labeled_only: bool = False,
    n_seeds: int = 10,
    n_permutations: int = 100,
    sample_key: str = Key.SAMPLE,
    spatial_key: str = Key.SPATIAL,
    seed: int = 0,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Compare domains of each section with annotated regions, over several seeds.

    Each section is clustered on its own as in :func:`stpredict.tl.domains`, once per seed. The labels give the number
    of domains, and the resolution is searched until Leiden :cite:p:`traag2019` finds that many; agreement is computed
    once, on the result.

    The value alone says little, because regions are contiguous and any smooth map agrees with them to some degree. Read
    it beside `ari_positions` (regions of equal size laid over the section without any expression) and `ari_rotated`
    (the same domains, turned over the section).

    Parameters
    ----------
    data
        AnnData or SpatialData with predicted (or measured, normalized) expression.
    label_key
        Column of `obs` with annotated regions. Observations without a label, or labeled `"undetermined"`, are not
        compared; sections without any label are left out.
    key
        Slot of the prediction in `obsm`. With `use="measured"` it only supplies the genes.
    use
        Expression to cluster: `"predicted"` for `obsm[key]`, `"measured"` for the measured expression, which is what a
        perfect prediction would reach.
    genes
        Genes to use; when `None`, those of the prediction, or all variables where there is no prediction and
        `use="measured"`.
    layer
        Layer with the measured values; `X` by default.
    n_domains
        Number of domains; by default the number of annotated regions of each section.
    n_pcs, n_neighbors
        Numbers of principal components and of neighbors in the graph, as in :func:`stpredict.tl.domains`.
    labeled_only
        Whether to leave observations without a label out before clustering, as is often published. The labels then help
        the clustering: observations that were hard to classify are left out.
    n_seeds
        Number of random seeds, from `seed` on.
    n_permutations
        Number of times labels are shuffled, and domains turned, per seed.
    sample_key
        Column of `obs` that names the section.
    spatial_key
        Slot of the positions in `obsm`.
    seed
        First of the random seeds.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per section with labels: `sample`; mean and standard deviation over seeds of the adjusted Rand index
    :cite:p:`hubert1985` and the normalized mutual information (`ari`, `ari_sd`, `nmi`, `nmi_sd`); means of both with
    shuffled labels (`ari_shuffled`, `nmi_shuffled`), with domains turned over the section (`ari_rotated`,
    `nmi_rotated`) and of as many clusters of the positions alone by k-means (`ari_positions`, `nmi_positions`);
    `n_domains` asked for, `n_found` (mean over seeds), `n_labeled`, `n_obs` (clustered), `n_seeds`. Agreement is `NaN`
    in a section with a single region. Nothing is written to `data`.

    Raises
    ------
    KeyError
        When the prediction, a gene, the labels, the sections or the positions are missing.
    ValueError
        When values are not finite, an option is out of range, no observation has a label, or a section with labels has
        too few observations or genes; or when the genes of the prediction are not known.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When no resolution gives the number of domains asked for.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_spots=80, n_genes=20)
    >>> stp.pp.normalize(adata)
    >>> table = stp.tl.domain_agreement(adata, "label", use="measured", n_seeds=2, progress=False)
    >>> table["n_labeled"].tolist()
    [80]
    """
    import pandas as pd
    from tqdm.auto import tqdm

    check_choice(use, ("predicted", "measured"), "use")
    numbers = {"n_pcs": n_pcs, "n_neighbors": n_neighbors, "n_seeds": n_seeds, "n_permutations": n_permutations}
    for name, value in (numbers | {"n_domains": 1 if n_domains is None else n_domains}).items():
        if int(value) != value or value < 1:
            raise ValueError(f"expected {name} to be a positive whole number; found {value!r}")
    adata = get_table(data, table_key)
    check_obs(adata, label_key, "name the column with the annotated regions")
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_obsm(adata, spatial_key, "write the positions there, or pass `spatial_key=`")
    matrix, _ = expression_matrix(adata, key, use, genes, layer)
    text, labeled = region_labels(adata, label_key)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    tissue = in_tissue(adata)
    labeled = labeled & tissue
    if not labeled.any():
        raise ValueError(
            f"expected labels in obs[{label_key!r}]; found none on tissue but 'undetermined' or missing ones"
        )
    sections = {
        str(name): np.flatnonzero((sample == name) & (labeled if labeled_only else tissue))
        for name in pd.unique(sample[labeled])
    }
    xy = positions_of(adata, spatial_key)
    for name, rows in sections.items():
        if len(rows) < 3 or matrix.shape[1] < 2:
            raise ValueError(
                f"expected at least 3 observations and 2 genes in section {name!r}; found {len(rows)} and "
                f"{matrix.shape[1]}"
            )
        part = matrix[rows]
        stored = part.data if hasattr(part, "toarray") else part
        check_finite(np.atleast_1d(stored), f"{use} expression of section {name!r}", "leave these observations out")
        check_finite(xy[rows], f"positions of section {name!r}", f"correct obsm[{spatial_key!r}]")

    table, missed = [], []
    show_progress = settings.progress if progress is None else progress
    with tqdm(total=len(sections) * n_seeds, desc="domains", unit="seed", disable=not show_progress) as bar:
        for name, rows in sections.items():
            has_label = labeled[rows]
            truth = np.unique(text[rows[has_label]], return_inverse=True)[1]
            n_regions = int(truth.max()) + 1
            n_wanted = n_domains or n_regions
            entry: dict[str, Any] = {"sample": name}
            counts = {"n_domains": n_wanted, "n_found": np.nan, "n_labeled": len(truth), "n_obs": len(rows)}
            if n_regions > 1:
                drawn = _domains_over_seeds(
                    matrix[rows], n_wanted, n_pcs, n_neighbors, range(seed, seed + n_seeds), bar
                )
                n_found = np.array([len(np.unique(domains)) for domains in drawn])
                counts["n_found"] = n_found.mean()
                missed += [name] if (n_found != n_wanted).any() else []
                entry |= _agreement(drawn, has_label, truth, xy[rows], n_wanted, n_permutations, seed, name)
            else:
                bar.update(n_seeds)
            table.append(entry | counts | {"n_seeds": n_seeds})
    if missed:
        warnings.warn(
            f"no resolution gave the number of domains asked for in {', '.join(missed)} with some seed; kept the "
            "nearest, see n_found",
            stacklevel=2,
        )
    return compact(pd.DataFrame(table, columns=_COLUMNS), _SHOWN, move=False)


def _domains_over_seeds(
    matrix: Any, n_domains: int, n_pcs: int, n_neighbors: int, seeds: range, bar: Any
) -> np.ndarray:
    """Domain of each observation (n_seeds, n), codes from 0."""
    drawn = []
    for number in seeds:
        components = principal_components(matrix, n_pcs, number)
        graph = neighbor_graph(components, n_neighbors, number)
        drawn.append(cluster(graph, components, n_domains, 1.0, 0, number)[0])
        bar.update()
    return np.stack(drawn)


def _agreement(
    domains: np.ndarray,
    labeled: np.ndarray,
    truth: np.ndarray,
    xy: np.ndarray,
    n_domains: int,
    n_permutations: int,
    seed: int,
    name: str,
) -> dict[str, float]:
    """Scores of domains (n_seeds, n) with the codes (n_labeled,) of the labeled observations, and of the references."""
    from sklearn.cluster import KMeans

    n_seeds, n = domains.shape
    scores = _scores(domains[:, labeled], truth)
    result = {metric: values.mean() for metric, values in scores.items()}
    result |= {f"{m}_sd": v.std(ddof=1) if n_seeds > 1 else np.nan for m, v in scores.items()}
    # One stream per section: other sections do not change it.
    rng = np.random.default_rng([seed, *name.encode()])
    one = np.zeros(n, dtype=np.int64)
    shuffled = displaced(one[labeled], None, n_permutations, "shuffle", rng)
    turned = displaced(one, xy, n_permutations, "rotation", rng)
    chance: dict[str, list[np.ndarray]] = {"shuffled": [], "rotated": []}
    for each in domains:
        chance["shuffled"].append(each[labeled][shuffled])
        chance["rotated"].append(each[turned][:, labeled])
    places = KMeans(min(n_domains, len(np.unique(xy, axis=0))), n_init=1)
    positions = np.stack([places.set_params(random_state=seed + i).fit_predict(xy) for i in range(n_seeds)])
    references = {kind: np.concatenate(drawn) for kind, drawn in chance.items()} | {"positions": positions[:, labeled]}
    for kind, drawn in references.items():
        result |= {f"{metric}_{kind}": values.mean() for metric, values in _scores(drawn, truth).items()}
    return result


def _scores(clusters: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    return {"ari": adjusted_rand(clusters, labels), "nmi": normalized_mutual_information(clusters, labels)}


def normalized_mutual_information(clusters: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mutual information of each row of clusters (n_draws, n) with labels (n,), over the mean of both entropies."""
    joint = contingency_tables(clusters, labels) / len(labels)

    def entropy(share: np.ndarray) -> np.ndarray:
        return -(share * np.log(np.where(share > 0, share, 1))).reshape(len(joint), -1).sum(axis=1)

    first, second = entropy(joint.sum(axis=2)), entropy(joint.sum(axis=1))
    shared = np.maximum(first + second - entropy(joint), 0)
    return np.divide(2 * shared, first + second, out=np.ones(len(joint)), where=first + second > 0)
