"""Copy-number profiles of spots from measured counts."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._optional import optional_import
from stpredict.core._validate import check_choice, check_counts, check_positive, check_unique, few
from stpredict.slots._checks import check_layer, check_obs
from stpredict.slots._container import begin, get_table
from stpredict.slots._expression import in_tissue, marked_measured
from stpredict.slots._keys import Key, check_key
from stpredict.slots._provenance import write_record
from stpredict.tl.biology._gene_positions import gene_positions

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from stpredict.slots._container import Container

_MIN_REFERENCE = 5  # observations: a mean over fewer is mostly their noise
_N_PCS = 20
_TARGET_SUM = 1e4


def cnv(
    data: Container,
    reference_key: str,
    reference_cat: str | Sequence[str],
    *,
    positions: pd.DataFrame | str | Path | None = None,
    layer: str = Key.COUNTS,
    by: Literal["sample", "patient", "all"] = "sample",
    window: int = 100,
    step: int = 10,
    clip: float = 3.0,
    dynamic_threshold: float | None = 1.5,
    min_mean: float = 0.1,
    exclude: Sequence[str] = ("chrX", "chrY", "chrM"),
    n_clusters: int | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    n_jobs: int = 1,
    seed: int = 0,
    key_added: str = "cnv",
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Infer copy-number profiles from measured counts, with normal spots as the reference.

    Counts are scaled to 10,000 per spot and logged, the mean of the normal spots is subtracted, and the differences are
    clipped and averaged over windows of neighboring genes on each chromosome, by infercnvpy :cite:p:`tirosh2016`. A
    spot holds several cells, so that its profile is a mixture: the score follows tumor content and depth as well as
    copy numbers. Compare clusters of predicted expression with it by :func:`stpredict.tl.cluster_agreement`.

    Parameters
    ----------
    data
        AnnData or SpatialData with measured counts.
    reference_key
        Column of `obs` that says which spots are normal.
    reference_cat
        Value, or values, of that column for normal spots; as text where the column is boolean (`"False"`).
    positions
        Chromosome, start and end of genes: a DataFrame with these columns indexed by gene, a GTF file, or a file of
        comma- or tab-separated values. By default the columns `chromosome`, `start` and `end` of `var` where they
        exist, and otherwise the table of human genes that comes with the package hgfind (MIT license): Ensembl's
        positions on hg38 as of August 2021, 39,319 gene names and 51,082 synonyms. Genes of other species, Ensembl
        identifiers and newer names are not in it; pass the GTF file of your own annotation for these.
    layer
        Layer with raw counts.
    by
        Normal spots that are the reference: those of the same section (`"sample"`), of the same patient (`"patient"`),
        or all (`"all"`). With `"all"`, differences of depth and stain between sections look like copy numbers.
    window
        Number of genes in a window.
    step
        Number of genes from one window to the next.
    clip
        Largest log difference of a single gene.
    dynamic_threshold
        Number of standard deviations below which windows are set to 0; `None` keeps all.
    min_mean
        Mean count per spot below which a gene is left out.
    exclude
        Chromosomes to leave out.
    n_clusters
        Number of groups to cluster the profiles into (k-means on 20 principal components); no clusters when `None`.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    n_jobs
        Number of processes of infercnvpy.
    seed
        Random seed for the clusters.
    key_added
        Name of the result.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm["X_{key_added}"]`: (n_obs, n_windows) float32, log difference from the reference;
    - `obs["{key_added}_score"]`: mean square of these;
    - `obs["{key_added}_cluster"]` with `n_clusters`;
    - `uns[key_added]`: `chr_pos`, the first window of each chromosome, as infercnvpy's figures read it;
    - `uns["stpredict"][key_added]`: settings, source of the positions and number of genes used.

    All are missing off tissue, and where a section (or patient) has fewer than five normal spots.

    Raises
    ------
    KeyError
        When counts, the reference column or a reference category are missing.
    ValueError
        When the layer holds no counts, no gene has a position, or no section has enough normal spots.
    ImportError
        When infercnvpy, or hgfind where it gives the positions, is not installed.
    FileNotFoundError
        When there is no file at the path `positions`.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When a section (or patient) has fewer than five normal spots.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_visium("PATH")  # doctest: +SKIP
    >>> stp.tl.cnv(adata, "label", "connective tissue", positions="PATH.gtf.gz")  # doctest: +SKIP
    """
    import pandas as pd
    from anndata import AnnData

    from stpredict.metrics._log_normalize import log_normalize

    check_key(key_added)
    source = get_table(data, table_key)
    check_obs(source, reference_key, "name the column that marks normal spots")
    check_layer(source, layer, "name the layer with raw counts")
    check_choice(by, ("sample", "patient", "all"), "by")
    for number, name in ((window, "window"), (step, "step"), (clip, "clip"), (n_jobs, "n_jobs")):
        check_positive(number, name)
    check_unique(source.var_names, "var_names")
    group = np.zeros(source.n_obs, dtype=object)
    if by != "all":
        column = sample_key if by == "sample" else patient_key
        check_obs(source, column, f"name the {by}s, or pass by='all'")
        group = source.obs[column].astype(str).to_numpy(dtype=object)
    reference_labels = source.obs[reference_key].astype(str).to_numpy()
    normal_labels = [reference_cat] if isinstance(reference_cat, str) else [str(name) for name in reference_cat]
    absent = [name for name in normal_labels if name not in set(reference_labels)]
    if absent or not normal_labels:
        raise KeyError(
            f"expected values of obs[{reference_key!r}]; found {few(absent) or 'an empty list'}; choose among "
            f"{few(sorted(set(reference_labels)), 20)}"
        )
    tissue = in_tissue(source) & marked_measured(source)
    normal = np.isin(reference_labels, normal_labels) & tissue
    enough = [name for name in pd.unique(group[tissue]) if normal[group == name].sum() >= _MIN_REFERENCE]
    if not enough:
        raise ValueError(
            f"expected at least {_MIN_REFERENCE} normal observations in a {'reference' if by == 'all' else by}; found "
            f"{int(normal.sum())} in all; take another `reference_cat`, or by='all'"
        )
    rows = np.flatnonzero(tissue & np.isin(group, np.array(enough, dtype=object)))
    counts = source.layers[layer][rows]
    check_counts(counts, f"layers[{layer!r}]")
    if n_clusters is not None and not 1 < n_clusters <= len(rows):
        raise ValueError(f"expected 2 to {len(rows)} clusters, one observation or more each; found {n_clusters}")
    gene_table, positions_from = gene_positions(source, positions)
    mean = np.asarray(counts.mean(axis=0)).ravel()
    chromosome = gene_table["chromosome"]
    usable = (chromosome.notna() & ~chromosome.isin(list(exclude))).to_numpy() & (mean >= min_mean)
    if usable.sum() < 2:
        raise ValueError(
            f"expected genes with a position and at least {min_mean} counts per spot; found {int(usable.sum())}; lower "
            "`min_mean`, or pass `positions=`"
        )
    infercnvpy = optional_import("infercnvpy", "cnv")

    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    part = AnnData(
        log_normalize(counts, totals, _TARGET_SUM)[:, usable],
        obs=pd.DataFrame({"normal": np.where(normal[rows], "yes", "no")}, index=source.obs_names[rows]),
        var=gene_table[usable].astype({"start": int, "end": int}),
    )
    profile: np.ndarray | None = None
    chr_pos: dict[str, int] = {}
    for name in enough:
        in_group = group[rows] == name
        with redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
            chr_pos, windows, _ = infercnvpy.tl.infercnv(
                part[in_group].copy(), reference_key="normal", reference_cat="yes", lfc_clip=clip, window_size=int(window),
                step=int(step), dynamic_threshold=dynamic_threshold, exclude_chromosomes=None, n_jobs=int(n_jobs),
                inplace=False,
            )  # fmt: skip
        windows = windows.toarray() if hasattr(windows, "toarray") else np.asarray(windows)
        if profile is None:
            profile = np.full((source.n_obs, windows.shape[1]), np.nan, dtype=np.float32)
        profile[rows[in_group]] = windows
    assert profile is not None  # there is one section at least
    left_out = [str(name) for name in pd.unique(group[tissue]) if name not in set(enough)]
    if left_out:
        warnings.warn(
            f"fewer than {_MIN_REFERENCE} normal observations in {few(left_out)}; no copy numbers there", stacklevel=2
        )

    container, adata = begin(data, copy, table_key)
    adata.obsm[f"X_{key_added}"] = profile
    adata.obs[f"{key_added}_score"] = np.square(profile, dtype=np.float64).mean(axis=1)
    if n_clusters is not None:
        adata.obs[f"{key_added}_cluster"] = _clusters(profile, rows, n_clusters, seed)
    adata.uns[key_added] = {"chr_pos": {name: int(at) for name, at in chr_pos.items()}}
    record: dict[str, Any] = {
        "reference_key": reference_key, "reference_cat": normal_labels, "by": by, "layer": layer, "window": window,
        "step": step, "clip": clip, "dynamic_threshold": dynamic_threshold, "min_mean": min_mean,
        "positions": positions_from, "n_genes": int(usable.sum()), "n_reference": int(normal[rows].sum()),
        "without_reference": left_out or None, "n_clusters": n_clusters, "seed": seed,
    }  # fmt: skip
    write_record(adata, key_added, record)
    return container if copy else None


def _clusters(profile: np.ndarray, rows: np.ndarray, n_clusters: int, seed: int) -> Any:
    """Clusters of the profiles (n_obs,), numbered by size, missing elsewhere."""
    import pandas as pd
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    values = profile[rows].astype(np.float64)
    n_pcs = min(_N_PCS, *values.shape)
    components = PCA(n_pcs, random_state=seed).fit_transform(values)
    label = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(components)
    rank = np.argsort(np.argsort(-np.bincount(label, minlength=n_clusters), kind="stable"))
    codes = np.full(len(profile), -1, dtype=np.int64)
    codes[rows] = rank[label]
    return pd.Categorical.from_codes(codes, categories=pd.Index([str(i) for i in range(n_clusters)]))
