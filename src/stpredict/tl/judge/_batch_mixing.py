"""How far patients, and sections of one patient, lie apart in features and in predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_positive
from stpredict.slots._checks import as_mask
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._spread import sampled_rows

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

_PER_ROW = ("silhouette", "mixing", "lisi")


def batch_mixing(
    data: Container,
    keys: str | Sequence[str],
    *,
    rows: np.ndarray | str | None = None,
    n_neighbors: int = 30,
    n_obs: int = 3000,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Tell how far patients, and sections of one patient, lie apart in features, embeddings or predictions.

    Patients differ in biology as well as in stain: mixing is no aim by itself. It is to be read beside what is predicted, and
    sections of one patient, whose biology is nearly the same, show how much is technical.

    Parameters
    ----------
    data
        Object with features or predictions in `obsm`.
    keys
        Slots of `obsm` to compare. Columns are standardized first, over the observations looked at; rows of NaN are left out.
    rows
        Boolean mask (n_obs,) or the name of a boolean column of `obs`; all observations when `None`.
    n_neighbors
        Nearest observations that are looked at around each.
    n_obs
        Most observations that are looked at, as many of each section, drawn at random, the same for all keys: time grows with
        the square of their number.
    level
        Level of the bootstrap intervals :cite:p:`efron1993`.
    n_boot
        Number of bootstrap samples.
    seed
        Random seed for the observations and the bootstrap.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per key and `by`: `"patient"`, and `"section"`, within each patient that has several. Nothing is written
    to `data`. Its columns are the measures of :func:`stpredict.metrics.batch_mixing`, averaged over the observations of
    each patient and then over patients, with their bounds over patients (`…_low`, `…_high`; NaN with one patient):
    `silhouette` (1 apart, 0 mixed), `mixing` and `lisi` (0 apart, 1 mixed); `variance`, the share of all variance that lies
    between the batches, and what it is by chance (`variance_chance`); `n_obs`, `n_batches`, `n_patients`. Measures are NaN
    where there is one batch only.

    Raises
    ------
    KeyError
        When a slot or a column is missing.
    ValueError
        When a slot has no finite values in these rows, or a number is out of range.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=2, n_spots=40, n_genes=5)
    >>> stp.pp.image_features(adata)
    >>> table = stp.tl.batch_mixing(adata, "X_color-texture")
    >>> table["by"].tolist(), table["n_batches"].tolist()
    (['patient', 'section'], [2, 4])
    """
    import pandas as pd

    from stpredict.core._table import compact
    from stpredict.metrics import bootstrap_mean

    adata = get_table(data, table_key)
    check_positive(n_neighbors, "n_neighbors")
    check_positive(n_obs, "n_obs")
    names = [keys] if isinstance(keys, str) else list(keys)
    wanted = np.flatnonzero(as_mask(adata, rows, "rows"))
    lines = []
    for key in names:
        of, values = sampled_rows(adata, key, wanted, n_obs, seed, sample_key=sample_key, patient_key=patient_key)
        every = np.arange(len(of))
        per_patient = [every[of.person == code] for code in np.unique(of.person)]
        several = [part for part in per_patient if len(part) > 2 and len(np.unique(of.sample[part])) > 1]
        for by, parts, batch in (("patient", [every], of.patient), ("section", several, of.sample)):
            found = _measured(values, batch, parts, int(n_neighbors))
            line: dict[str, Any] = {"key": key, "by": by}
            for name in _PER_ROW:
                told = np.isfinite(found[name])
                line |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
                if told.any():
                    bounds = bootstrap_mean(found[name][told], of.person[told], level=level, n_boot=n_boot, seed=seed)
                    line |= dict(zip((name, f"{name}_low", f"{name}_high"), bounds, strict=True))
            line |= {name: found[name] for name in ("variance", "variance_chance")}
            looked = np.concatenate(parts) if parts else every[:0]
            line |= {
                "n_obs": len(looked), "n_batches": len(np.unique(batch[looked])),
                "n_patients": len(np.unique(of.person[looked])),
            }  # fmt: skip
            lines.append(line)
    return compact(pd.DataFrame(lines), ["key", "by", *_PER_ROW, "variance", "variance_chance", "n_batches"])


def _measured(values: np.ndarray, batch: np.ndarray, parts: list[np.ndarray], n_neighbors: int) -> dict[str, Any]:
    """Measures (n,) of each row among those of its part, and the mean over parts of the shares of variance."""
    from stpredict import metrics

    found: dict[str, Any] = {name: np.full(len(values), np.nan) for name in _PER_ROW}
    shares, chances = [], []
    for part in parts:
        for name, measured in metrics.batch_mixing(values[part], batch[part], n_neighbors=n_neighbors).items():
            found[name][part] = measured
        n_batches = len(np.unique(batch[part]))
        if n_batches > 1:
            shares.append(metrics.batch_variance(values[part], batch[part]))
            chances.append((n_batches - 1) / (len(part) - 1))
    told = {"variance": shares, "variance_chance": chances}
    return found | {name: float(np.mean(values)) if values else float("nan") for name, values in told.items()}
