"""Recall of the partner of each observation in fixed pools, within patients and across them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_positive
from stpredict.slots._checks import as_mask
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks, worst_marks
from stpredict.slots._rows import rows_of
from stpredict.slots._spread import full_rows

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.metrics._recall_at_k import Retrieved
    from stpredict.slots._container import Container

_LARGEST = 1000  # candidates of a pool, where users name no number
WITHIN, ACROSS = "within patients", "across patients"


def recall_at_k(
    data: Container,
    image: str = "aligned_image",
    genes: str = "aligned_genes",
    k: int | Sequence[int] = (1, 5, 10),
    *,
    rows: np.ndarray | str | None = None,
    pool_size: int | None = None,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Ask how often the expression of an observation is among those nearest to its image, and the other way round.

    Observations are divided at random into pools of one fixed size, each observation once at most. Pools within patients hold
    one patient each; pools across patients hold as many of every patient. Both have the same size, so that chance is the same,
    `k / pool_size`, and whatever recall across patients has above that within them comes from telling patients apart: by
    stain or by depth, and not by biology :cite:p:`gindra2025`. Scores do not depend on how anything is computed in batches.

    Parameters
    ----------
    data
        Object with both embeddings, as :func:`stpredict.tl.align` or :func:`stpredict.tl.embed` write them.
    image, genes
        Slots of `obsm` with embeddings (n_obs, d) of the images and of the expression in one space; they are compared by the
        cosine. Rows without one of the two (NaN) are left out.
    k
        Numbers of nearest candidates.
    rows
        Boolean mask (n_obs,) or the name of a boolean column of `obs`: the observations to look at, usually of patients that
        the model did not see; all when `None`.
    pool_size
        Candidates in each pool; when `None` as many as every patient has, and at most 1,000. Time grows with it times the
        number of observations, memory does not.
    level
        Level of the bootstrap intervals :cite:p:`efron1993`.
    n_boot
        Number of bootstrap samples.
    seed
        Random seed for the pools and the bootstrap.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with a row for each direction (`"image to genes"`, `"genes to image"`) and kind of pool (`"within patients"`,
    `"across patients"`: with several patients only); nothing is written to `data`. Its columns:

    - `direction`, `pool`; `recall@{k}`, averaged over the observations of each patient and then over patients, with the bounds
      `recall@{k}_low` and `recall@{k}_high` of its interval over patients (NaN with one patient); `chance@{k}`;
    - `mean_rank`, `median_rank` of the partner in its pool, from 1 on;
    - across patients `same_patient`: how often the nearest candidate is of the patient of the query, `same_patient_wrong`: the
      same of the nearest one besides the partner, and what both are by chance (`…_chance`). The first rises with recall, the
      second tells patients apart without it;
    - `n_obs`, `n_pools`, `pool_size`, `n_patients`, `n_sections`, and `leaky`: whether the embeddings are of models that saw
      these patients (`"unknown"` where nobody recorded that).

    Raises
    ------
    KeyError
        When a slot or a column is missing.
    ValueError
        When no observation has both embeddings, these differ in width, a patient has fewer than `pool_size` observations, or a
        number is out of range.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=5)
    >>> rng = np.random.default_rng(0)
    >>> adata.obsm["a"] = rng.normal(size=(120, 8))
    >>> adata.obsm["b"] = adata.obsm["a"] + rng.normal(size=(120, 8))
    >>> table = stp.tl.recall_at_k(adata, "a", "b", [5])
    >>> table[["pool", "pool_size", "n_obs"]].drop_duplicates().values.tolist()
    [['within patients', 60, 120], ['across patients', 60, 120]]
    """
    import pandas as pd

    from stpredict.core._table import compact
    from stpredict.metrics import bootstrap_mean
    from stpredict.metrics._recall_at_k import retrieve

    adata = get_table(data, table_key)
    numbers = [int(number) for number in ([k] if isinstance(k, int | np.integer) else k)]
    if not numbers or min(numbers) < 1:
        raise ValueError(f"expected k of at least 1; found {k!r}")
    index, first, second = _pairs(adata, image, genes, np.flatnonzero(as_mask(adata, rows, "rows")))
    chosen = np.zeros(adata.n_obs, dtype=bool)
    chosen[index] = True
    of = rows_of(adata, chosen, sample_key=sample_key, patient_key=patient_key)
    counts = np.bincount(np.unique(of.person, return_inverse=True)[1])
    size = min(_LARGEST, int(counts.min())) if pool_size is None else int(check_positive(pool_size, "pool_size"))
    if counts.min() < size or size < 2:
        raise ValueError(
            f"expected at least {max(size, 2)} observations with both embeddings in every patient, as many as a pool holds; found "
            f"{counts.min()}; pass a smaller pool_size, or leave such patients out with `rows=`"
        )
    marks = worst_marks(*(leak_marks(adata, key, patient_key)[index] for key in (image, genes)))
    lines = []
    for across in (False, True)[: min(len(counts), 2)]:
        pool = draw_pools(of.person, size, across=across, rng=np.random.default_rng(seed))
        kept = np.flatnonzero(pool >= 0)
        for direction, query, candidates in (("image to genes", first, second), ("genes to image", second, first)):
            found = retrieve(query[kept], candidates[kept], pool[kept], of.person[kept])
            line: dict[str, Any] = {"direction": direction, "pool": ACROSS if across else WITHIN}
            for number in numbers:
                value, low, high = bootstrap_mean(
                    found.hits(number), of.person[kept], level=level, n_boot=n_boot, seed=seed
                )
                line |= {f"recall@{number}": value, f"recall@{number}_low": low, f"recall@{number}_high": high}
                line[f"chance@{number}"] = min(1.0, number / size)
            line |= _ranks_and_groups(found, of.person[kept], across)
            line |= {
                "n_obs": len(kept), "n_pools": len(np.unique(pool[kept])), "pool_size": size, "n_patients": len(counts),
                "n_sections": len(np.unique(of.sample[kept])), "leaky": joint_mark(marks[kept]),
            }  # fmt: skip
            lines.append(line)
    table = pd.DataFrame(lines)
    short = [name for number in numbers for name in (f"recall@{number}", f"chance@{number}")]
    return compact(table, ["direction", "pool", *short, "same_patient_wrong", "pool_size", "n_patients", "leaky"])


def _pairs(adata: Any, image: str, genes: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with both embeddings, and these."""
    there, first = full_rows(adata, image, rows)
    both, second = full_rows(adata, genes, there)
    first = first[np.isin(there, both)]
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"expected embeddings of one space in obsm[{image!r}] and obsm[{genes!r}]; found {first.shape[1]} and "
            f"{second.shape[1]} numbers per row; align them with stp.tl.align"
        )
    return both, first, second


def _ranks_and_groups(found: Retrieved, person: np.ndarray, across: bool) -> dict[str, float]:
    """Ranks, and how often the nearest is of the same patient, averaged over patients."""
    import pandas as pd

    def mean(values: np.ndarray) -> float:
        return float(pd.Series(values).groupby(person).mean().mean())

    line = {"mean_rank": mean(found.rank), "median_rank": float(np.median(found.rank))}
    for name in ("same_group", "same_group_wrong"):
        label = name.replace("group", "patient")
        for end in ("", "_chance"):
            line[label + end] = mean(getattr(found, name + end)) if across else float("nan")
    return line


def draw_pools(person: np.ndarray, size: int, *, across: bool, rng: np.random.Generator) -> np.ndarray:
    """Pool (n,) of each row, -1 for those left over: each of `size` rows of one person, or of all persons alike.

    Where the size is no multiple of the number of persons, those who have most rows left have one more in a pool.
    """
    pool = np.full(len(person), -1)
    members = [rng.permutation(np.flatnonzero(person == code)) for code in np.unique(person)]
    if not across:
        number = 0
        for own in members:
            n_pools = len(own) // size
            pool[own[: n_pools * size]] = number + np.repeat(np.arange(n_pools), size)
            number += n_pools
        return pool
    left = np.array([len(own) for own in members])
    number = 0
    while True:
        wanted = np.full(len(members), size // len(members))
        order = np.lexsort((rng.random(len(members)), -left))  # equal ones in a random order
        wanted[order[: size % len(members)]] += 1
        if (wanted > left).any():
            return pool
        for own, n_left, n in zip(members, left, wanted, strict=True):
            pool[own[n_left - n : n_left]] = number
        left -= wanted
        number += 1
