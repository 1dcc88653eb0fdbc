"""Before training: which genes do places that look alike share, from one patient to another?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from stpredict.cohorts import Cohort, spatial_blocks
from stpredict.core._engine import Parcel, check_client, run_calls
from stpredict.core._validate import check_choice, check_counts, few
from stpredict.metrics._modes import spatial_modes
from stpredict.metrics._pearson_residuals import pearson_residuals
from stpredict.metrics._residual_ceiling import residual_ceiling
from stpredict.slots._checks import check_genes, check_layer, check_obsm, check_patients
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, check_key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._positions import positions_of
from stpredict.slots._provenance import write_record
from stpredict.slots._reach import MARGIN, field_of_view
from stpredict.slots._rows import Rows, rows_of
from stpredict.tl.explain._image_neighbors import components, neighbors_across
from stpredict.tl.learn.inputs._features import features_of
from stpredict.tl.learn.inputs._slots import feature_keys

if TYPE_CHECKING:
    from typing import Any

    import pandas as pd
    from anndata import AnnData

    from stpredict.cohorts import Fold
    from stpredict.metrics._sharing import Sharing
    from stpredict.slots._container import Container

Across = Literal["patients", "sections", "blocks"]
Sides = list[tuple[np.ndarray, np.ndarray]]
#: A first guess, which simulated cohorts confirm: benchmarks/predictability.py --parts settings.
_N_NEIGHBORS, _N_COMPONENTS = 20, 10
_LINKS = 6  # neighbors on the tissue that make the graph behind the spatial modes
_MIN_DETECTED = 10  # observations of a section with a gene, below which the section says nothing about it
_MIN_SECTION = 20  # observations
_BLOCK = 2**24  # residuals held at a time
_SHOWN = ("gene", "pearson", "ceiling", "z", "p", "q", "n_obs", "n_patients")
_FROM = {
    "patients": "other patients",
    "sections": "other sections of the patient",
    "blocks": "other blocks of the section",
}


def predictability(
    data: Container | Cohort,
    features: str | Sequence[str] | None = None,
    *,
    genes: Sequence[str] | None = None,
    across: Across | Sequence[Fold] | None = None,
    n_neighbors: int = _N_NEIGHBORS,
    n_components: int = _N_COMPONENTS,
    layer: str = Key.COUNTS,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    client: Any = None,
    key_added: str | None = None,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    r"""Measure, before any training, how much of each gene can be seen in the picture.

    Every observation is linked to those observations of *other patients* that look most alike, and the question is whether
    they also share the expression of a gene: its Pearson residuals within the section :cite:p:`lause2021`, which carry no
    depth. This is the prediction of nearest neighbors, without anything that is fitted: what it finds, a model can learn; what
    it misses, a better model may still find.

    **What the p-values hold for.** Expression and picture are both smooth over a section, and two smooth maps resemble each
    other by chance far more often than shuffled observations would tell. The null distribution therefore takes the map of
    a gene in every section apart into spatial modes, from coarse to fine, and draws their signs: the pattern moves, its
    smoothness stays :cite:p:`wagner2015`. The variance of the statistic under such signs is known in closed form, and so is
    the skewness that few counts make; p comes from the Pearson distribution of type III with both. Sections of one patient
    count as copies of each other in what is smooth, because neighboring slices are: where they are not, p is too large.
    Patients are taken to be independent; sections and blocks of one patient are not, and share places as well as looks.

    Parameters
    ----------
    data
        AnnData or SpatialData with image features, raw counts and positions, of two patients or more; a
        :class:`stpredict.Cohort` of them, into whose sections nothing is written.
    features
        Image features: encoder, slot of `obsm`, or several; not needed when there is only one set. They are
        standardized within each section, so that differences of stain between sections do not matter.
    genes
        Genes to test; all by default. Their residuals are computed with the depth over all genes.
    across
        Where neighbors are looked for: `"patients"` (other patients), `"sections"` (other sections of the patient) or
        `"blocks"` (other blocks of the section, behind a buffer wider than the field of view of the features, see
        :func:`stpredict.cohorts.spatial_blocks`, whose folds are taken as well). When `None`, `"patients"`, or, where there is one
        patient, `"sections"`, or `"blocks"` where there is one section; with a warning.
    n_neighbors
        Number of neighbors in image space.
    n_components
        Number of principal components of the features that make the image space.
    layer
        Layer with the raw counts.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers take blocks of genes; see the page on clusters.
    key_added
        Prefix of what is written; `"predictability"` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per gene, the lowest p first:

    - `gene`; `pearson`, the correlation of the residuals with the mean of their neighbors, within sections, then averaged
      over sections and patients;
    - `ceiling`, what a perfect model would reach, see :func:`stpredict.metrics.residual_ceiling`, pooled over sections;
    - `z`, the statistic (the mean product of residuals of neighbors) over its standard deviation under the null, the
      one-sided `p`, and `q` (Benjamini–Hochberg over the genes of the table that have a p);
    - `n_obs`, `n_sections`, `n_patients` behind it: sections in which fewer than 10 observations have the gene are left out,
      and genes that are left in fewer than two patients (sections, blocks) are NaN, as are p-values of genes so rare that
      a few counts decide;
    - `neighbors_from`: `"other patients"`, or `"other sections of the patient"` or `"other blocks of the section"`. The
      latter two say that places of one tissue resemble each other, not that a model would hold for another person.

    Writes `var["{key_added}"]` (`pearson`), `var["{key_added}_z"]`, `…_p`, `…_q`, `…_ceiling` (NaN for genes not
    asked for) and `uns["stpredict"][key_added]`: `features`, `n_neighbors`, `n_components`, `layer`, `neighbors_from`, `n_genes`.

    Raises
    ------
    KeyError
        When features, counts, positions, sections, patients or genes are missing.
    ValueError
        When the layer holds no counts, fewer than two groups with at least 20 observations are left, or an option is
        out of range.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When there is one patient only.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> table = stp.tl.predictability(adata)
    >>> int((table["q"] < 0.05).sum()) > 0
    True
    """
    import pandas as pd

    from stpredict.metrics import benjamini_hochberg
    from stpredict.metrics._sharing import Sharing

    check_key(key_added)
    check_client(client)
    key = key_added or "predictability"
    on_disk = isinstance(data, Cohort)
    if isinstance(data, Cohort):
        sample_key, patient_key, table_key, data = data.sample_key, data.patient_key, data.table_key, data.table()
    adata = get_table(data, table_key, measured=True)
    for name, number in (("n_neighbors", n_neighbors), ("n_components", n_components)):
        if int(number) != number or number < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1; found {number!r}")
    if across is None or isinstance(across, str):
        check_choice(across or "patients", tuple(_FROM), "across")
    check_patients(adata, sample_key, patient_key)
    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, which writes positions")
    check_layer(adata, layer, "pass the layer that holds the raw counts as `layer=`")
    names = list(adata.var_names) if genes is None else [str(gene) for gene in genes]
    check_genes(adata, names)
    slots = feature_keys(adata, features)

    counts = numeric_matrix(adata.layers[layer], f"layers[{layer!r}]")
    rows = _usable(adata, counts, layer, sample_key, patient_key)
    counts = counts[rows.index]
    across = _widest(rows) if across is None else across
    if across == "blocks":
        across = _blocks(adata, slots, sample_key, patient_key)
    if isinstance(across, str):
        section, group, sides = _sides(rows, across)
        origin = _FROM[across]
    else:
        section, group, sides = _sides_of_folds(rows, across)
        origin = _FROM["blocks"] if any(fold.within for fold in across) else "the training side of each fold"
    if not sides:
        raise ValueError(
            f"expected {origin}, with at least {_MIN_SECTION} observations on tissue each, to look for neighbors; found "
            f"{len(rows.patients)} patients with {len(rows.sections)} sections; choose with `across=`"
        )
    if (smallest := int(np.bincount(section).min())) < _MIN_DETECTED:
        raise ValueError(
            f"expected at least {_MIN_DETECTED} observations with counts on tissue in every block; found {smallest}; take fewer "
            "blocks: across=stp.cohorts.spatial_blocks(adata, 2)"
        )
    points = components(features_of(adata, slots, "section", rows.index, rows.sample), n_components)
    sharing = Sharing(
        neighbors_across(points, sides, n_neighbors), section, group, _modes(positions_of(adata)[rows.index], section)
    )
    table = _test(
        sharing, counts[:, adata.var_names.get_indexer(names)], _depths(counts), section, rows.patient, client
    )
    table.insert(0, "gene", names)
    table["q"] = np.nan
    told = table["p"].notna()  # how rare a gene is says nothing of whether its neighbors share it
    table.loc[told, "q"] = benjamini_hochberg(table.loc[told, "p"])
    table["neighbors_from"] = origin
    if on_disk:  # its table is nobody's to write into
        return _ordered(table)
    for column, name in ((key, "pearson"), *((f"{key}_{name}", name) for name in ("z", "p", "q", "ceiling"))):
        adata.var[column] = pd.Series(table[name].to_numpy(), index=names).reindex(adata.var_names)
    record = {"features": slots, "n_neighbors": n_neighbors, "n_components": n_components, "layer": layer}
    write_record(adata, key, record | {"neighbors_from": origin, "n_genes": len(names)})
    return _ordered(table)


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    from stpredict.core._table import compact

    order = np.lexsort((-table["z"].fillna(-np.inf), table["p"].fillna(1.0)))
    return compact(table.iloc[order].reset_index(drop=True), _SHOWN)


def _usable(adata: AnnData, counts: Any, layer: str, sample_key: str, patient_key: str) -> Rows:
    """Observations on tissue with counts, of sections that have enough of them."""
    rows = rows_of(adata, sample_key=sample_key, patient_key=patient_key, matrix=counts)
    rows = rows.take(rows.measured & rows.in_tissue)
    counts = counts[rows.index]
    check_counts(counts, f"counts in layers[{layer!r}]")
    rows = rows.take(_depths(counts) > 0)
    size = np.bincount(rows.section, minlength=1)
    rows = rows.take(size[rows.section] >= _MIN_SECTION)
    if not len(rows):
        raise ValueError(
            f"expected sections with at least {_MIN_SECTION} observations on tissue that have counts; found none in "
            f"layers[{layer!r}]"
        )
    return rows


def _depths(counts: Any) -> np.ndarray:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def _widest(rows: Rows) -> Across:
    """Other patients where there are some; a warning, and what there is, where not."""
    if len(rows.patients) > 1:
        return "patients"
    across: Across = "sections" if len(rows.sections) > 1 else "blocks"
    warnings.warn(
        f"there is one patient: neighbors come from {_FROM[across]}, so that the table says what places of one tissue share, "
        "and not what would hold for another person",
        stacklevel=3,
    )
    return across


def _blocks(adata: AnnData, slots: Sequence[str], sample_key: str, patient_key: str) -> list[Fold]:
    """Blocks of each section, apart by more than the features of these slots look at."""
    field = field_of_view(adata, slots)
    if not field:
        raise ValueError(
            f"expected to find how far the features of {few(slots)} look, so that no neighbor saw the same tissue; found no size "
            "of their tiles; pass across=stp.cohorts.spatial_blocks(adata, n_blocks, buffer_um=…), in µm"
        )
    return spatial_blocks(adata, buffer_um=MARGIN * field, sample_key=sample_key, patient_key=patient_key)


def _sides(rows: Rows, across: Across) -> tuple[np.ndarray, np.ndarray, Sides]:
    """Sections (n,), groups (n,), and which rows look for neighbors among which."""
    section, person = (np.unique(codes, return_inverse=True)[1] for codes in (rows.section, rows.person))
    group = person if across == "patients" else section
    sides = []
    for code in np.unique(group):
        mine = group == code
        others = ~mine if across == "patients" else ~mine & (person == person[mine][0])
        if others.any():
            sides.append((np.flatnonzero(mine), np.flatnonzero(others)))
    return section, group, sides


def _sides_of_folds(rows: Rows, folds: Sequence[Fold]) -> tuple[np.ndarray, np.ndarray, Sides]:
    """The same for folds: the test side of each is a group, and looks among its training side."""
    group = np.full(len(rows), len(folds))
    sides = []
    for number, fold in enumerate(folds):
        test, train = (np.flatnonzero(np.asarray(mask)[rows.index]) for mask in (fold.test, fold.train))
        group[test] = number
        if len(test) and len(train):
            sides.append((test, train))
    parts = np.stack([rows.section, group])
    return np.unique(parts, axis=1, return_inverse=True)[1].ravel(), group, sides


def _modes(xy: np.ndarray, section: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [spatial_modes(_links_on_tissue(xy[section == code])) for code in range(section.max() + 1)]


def _links_on_tissue(xy: np.ndarray) -> Any:
    """Links (n, n) to the nearest observations and to all that are as near: on a lattice a number alone would cut through ties."""
    from scipy import sparse
    from scipy.spatial import cKDTree

    tree = cKDTree(xy)
    reach = tree.query(xy, k=min(_LINKS + 1, len(xy)))[0][:, -1]
    near = tree.query_ball_point(xy, reach * (1 + 1e-3), return_sorted=True)
    rows = np.repeat(np.arange(len(xy)), [len(found) for found in near])
    columns = np.concatenate(near)
    apart = rows != columns
    return sparse.csr_array((np.ones(apart.sum()), (rows[apart], columns[apart])), shape=(len(xy), len(xy)))


def _test(
    sharing: Sharing, counts: Any, depth: np.ndarray, section: np.ndarray, patient: np.ndarray, client: Any
) -> pd.DataFrame:
    """Statistics of genes (columns of `counts`), a block of them at a time, here or on the workers of a client."""
    import pandas as pd
    from scipy import sparse

    counts = sparse.csc_array(counts)
    members = [np.flatnonzero(section == code) for code in range(section.max() + 1)]
    people = np.unique([patient[rows[0]] for rows in members], return_inverse=True)[1]
    held: Any = (sharing, depth, members, people)
    held = held if client is None else Parcel(held)
    step = max(1, _BLOCK // len(section))
    starts = range(0, counts.shape[1], step)
    calls = ((_test_block, {"held": held, "counts": counts[:, start : start + step].tocsr()}) for start in starts)
    return pd.concat(run_calls(client, calls), ignore_index=True)


def _test_block(held: Any, counts: Any) -> pd.DataFrame:
    """Statistics of some genes, from what all blocks have in common and their counts (n, g)."""
    import pandas as pd

    sharing, depth, members, people = held.open() if isinstance(held, Parcel) else held
    values = np.zeros(counts.shape, dtype=np.float32)
    used = np.zeros((len(members), counts.shape[1]), dtype=bool)
    reliability = np.full(used.shape, np.nan)
    for code, rows in enumerate(members):
        own = counts[rows]
        residuals = pearson_residuals(own, depth[rows])
        residuals -= residuals.mean(axis=0)
        spread = residuals.std(axis=0)
        used[code] = ((own > 0).sum(axis=0) >= _MIN_DETECTED) & (spread > 0)
        values[rows] = residuals * np.divide(1, spread, out=np.zeros_like(spread), where=used[code])
        top = residual_ceiling(own, depth[rows])
        reliability[code] = np.where(used[code], top * np.abs(top), np.nan)
    found = sharing.test(values)
    sizes = np.array([len(rows) for rows in members])
    enough = ~np.isnan(found.z)
    columns = {"pearson": found.pearson, "ceiling": _pooled(reliability, people), "z": found.z, "p": found.p}
    columns |= {"n_obs": sizes @ used, "n_sections": used.sum(axis=0)}
    columns["n_patients"] = np.array([len(np.unique(people[column])) for column in used.T])
    columns["ceiling"][~enough] = np.nan
    return pd.DataFrame(columns)


def _pooled(reliability: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Ceiling (G,) of genes whose reliabilities (n_sections, G) are averaged over sections, then over patients."""
    import pandas as pd

    mean = pd.DataFrame(reliability).groupby(people).mean().mean().to_numpy()
    return np.asarray(np.sign(mean) * np.sqrt(np.abs(mean)))
