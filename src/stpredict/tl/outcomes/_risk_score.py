"""The risk that a signature gives to patients, from measured or predicted expression."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._gene_sets import kinds_in_words
from stpredict.core._validate import check_choice, few
from stpredict.slots._container import begin
from stpredict.slots._keys import Key, check_key
from stpredict.slots._marks import leak_marks, seen_marks, worst_marks, written_marks
from stpredict.slots._outcome import patients_of
from stpredict.slots._profiles import Use, expression_frame, names_at_hand
from stpredict.slots._provenance import write_record
from stpredict.tl.outcomes._signature_table import Signature, read_signature

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

Scale = Literal["training", "cohort", "none"]


def risk_score(
    data: Container,
    signature: Signature | pd.DataFrame | dict[str, float],
    *,
    gene_column: str | None = None,
    coefficient_column: str | None = None,
    use: Use = "measured",
    key: str = Key.PREDICTED,
    layer: str | None = None,
    scale: Scale | None = None,
    cutoff: float | None = None,
    min_fraction: float = 0.8,
    key_added: str = Key.RISK,
    copy: bool = False,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Score patients by a signature: the sum of coefficients times expression.

    Parameters
    ----------
    data
        One row per slide (or patient), with measured or predicted expression.
    signature
        What :func:`stpredict.tl.signature` fitted, or genes with coefficients: a mapping, or a table. Genes without a
        coefficient, such as reference genes of an assay, are left out. The table of `Signature.to_frame`, read back from a
        file, keeps its scale, but not its cut.
    gene_column, coefficient_column
        Columns of a table; `"gene"`, `"symbol"` or `"HUGO.gene.symbol"`, and `"coefficient"` or `"weight"`, when `None`.
    use
        Expression to score: `"measured"`, or `"predicted"` for `obsm[key]`.
    key
        Slot of the prediction in `obsm`.
    layer
        Layer with the measured values, on a log scale; `X` by default.
    scale
        How genes are standardized before they are summed. `"training"` takes the mean and standard deviation of the patients
        that a fitted signature was learned from (its default), which asks for expression in the same unit by the same
        platform. `"cohort"` takes those of the patients at hand, for another platform: no outcome is used, but the risk
        of one patient then depends on who the others are. `"none"` takes values as they are (the default for tables).
    cutoff
        Risk above which a patient is `"high"`; that of a fitted signature, the median of its *training* patients, when
        `None`. Without one no groups are written: the median of the patients at hand would be chosen on them.
    min_fraction
        Least share of the signature, by number of genes, that must be there.
    key_added
        Column of the risk.
    copy
        Whether to return a changed copy instead of changing `data`.
    patient_key
        Column of `obs` with the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obs[key_added]`: the risk, NaN for slides without expression. A gene that is missing, in all slides or in one, counts
      as average (0) where genes are standardized, and not at all where they are not;
    - `obs["{key_added}_group"]`: `"high"` or `"low"`, where there is a cut;
    - `obs["{key_added}_leaky"]`: whether the signature was learned from this patient, or the model behind the prediction saw
      them; `"unknown"` where nobody wrote down from whom, as for published signatures;
    - `uns["stpredict"][key_added]`: genes `used` and `missing`, the `fraction` used, scale and cut.

    Raises
    ------
    KeyError
        When the expression, the patients or a column of the signature are missing.
    ValueError
        When less than `min_fraction` of the signature is there (the message lists what is missing), a gene has several
        coefficients, or `scale="training"` is asked of coefficients without statistics.
    TypeError
        When the signature is of another kind, or `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When genes are missing, or all patients fall on one side of the cut.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> slides = ad.AnnData(np.array([[1.0, 2.0], [3.0, 0.0]]), var=pd.DataFrame(index=["MKI67", "ESR1"]))
    >>> slides.obs["patient"] = ["p1", "p2"]
    >>> stp.tl.risk_score(slides, {"MKI67": 0.5, "ESR1": -1.0}, cutoff=0)
    >>> slides.obs["risk"].tolist(), slides.obs["risk_group"].tolist()
    ([-1.5, 1.5], ['low', 'high'])
    """
    import pandas as pd

    check_key(key_added)
    check_choice(use, ("measured", "predicted"), "use")
    if not 0 < min_fraction <= 1:
        raise ValueError(f"expected min_fraction above 0 and at most 1; found {min_fraction!r}")
    known = read_signature(signature, gene_column, coefficient_column)
    fitted = known.mean is not None and known.std is not None
    scale = scale or ("training" if fitted else "none")
    check_choice(scale, ("training", "cohort", "none"), "scale")
    if scale == "training" and not fitted:
        raise ValueError(
            "expected a fitted signature with scale='training'; found coefficients alone; pass 'cohort' or 'none'"
        )
    container, adata = begin(data, copy, table_key, *([key] if use == "predicted" else []))
    people = patients_of(adata, patient_key)
    frame, there = expression_frame(adata, use, key, layer, known.genes)
    missing, fraction = _coverage(known, frame, use, min_fraction, names_at_hand(adata, use, key))
    weight = pd.Series(known.coefficients, list(known.genes))
    values = frame.to_numpy()
    if scale == "training" and known.mean is not None and known.std is not None:
        at = [known.genes.index(gene) for gene in frame.columns]
        values = (values - known.mean[at]) / known.std[at]
    elif scale == "cohort":
        values = standardized(values, people, there)
    # Missing values of a slide count as average; without a scale that is the mean of the others.
    filled = np.where(np.isnan(values), 0.0 if scale != "none" else _mean(values), values)
    risk = filled @ weight[frame.columns].to_numpy() if frame.shape[1] else np.zeros(adata.n_obs)
    risk = np.where(there, risk, np.nan)
    cutoff = known.cutoff if cutoff is None else float(cutoff)
    group = None
    if cutoff is not None:
        group = _groups(risk, cutoff, scale)
    seen = list(known.patients)
    marks = seen_marks(people, seen)
    if use == "predicted":
        marks = worst_marks(marks, leak_marks(adata, key, patient_key))
    for column in (Key.group(key_added), Key.fold(key_added)):
        if column in adata.obs:
            del adata.obs[column]
    adata.obs[key_added] = risk
    if group is not None:
        adata.obs[Key.group(key_added)] = group
    adata.obs[Key.leaky(key_added)] = written_marks(marks)
    record = {
        "signature": dict(known.facts) or None,
        "used": list(frame.columns),
        "missing": missing,
        "fraction": fraction,
        "scale": scale,
        "cutoff": cutoff,
        "use": use,
        "key": key if use == "predicted" else None,
        "layer": layer,
        "patients_seen": seen,
    }
    write_record(adata, key_added, record)
    return container if copy else None


def _coverage(
    signature: Signature, frame: pd.DataFrame, use: str, min_fraction: float, at_hand: list[str]
) -> tuple[list[str], float]:
    """Genes that are missing, and the share that is there; an error where that is too little."""
    if not signature.genes:
        return [], 1.0
    missing = [gene for gene in signature.genes if gene not in frame.columns]
    fraction = 1 - len(missing) / len(signature.genes)
    told = f"{len(missing)} of {len(signature.genes)} genes missing: {few(missing, 20)}"
    if fraction < min_fraction or not frame.shape[1]:
        raise ValueError(
            f"expected at least {min_fraction:.0%} of the signature among the genes with {use} expression; found {fraction:.0%}, "
            f"{told}{kinds_in_words(signature.genes, at_hand, 'signature')}; name genes as the signature does, or lower `min_fraction`, for a score that is another one"
        )
    if missing:
        warnings.warn(f"{fraction:.0%} of the signature is used, {told}", stacklevel=3)
    return missing, fraction


def standardized(values: np.ndarray, people: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Values (n, n_genes) by the mean and standard deviation over patients (slides averaged); constant genes are 0."""
    import pandas as pd

    means = pd.DataFrame(values[there]).groupby(people[there]).mean()
    mean, std = means.mean().to_numpy(), means.std(ddof=0).to_numpy()
    varies = std > 1e-9 * means.abs().max().to_numpy()
    return np.where(varies, (values - mean) / np.where(varies, std, 1.0), np.where(np.isnan(values), np.nan, 0.0))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean of each gene over the slides that have it (n_genes,)."""
    known = np.isfinite(values)
    return np.divide(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0).clip(min=1))


def _groups(risk: np.ndarray, cutoff: float, scale: str) -> Any:
    """High and low risks; missing where there is no risk."""
    import pandas as pd

    names = np.where(risk > cutoff, "high", "low").astype(object)
    names[np.isnan(risk)] = None
    found = {name for name in names if name is not None}
    if len(found) == 1 and np.isfinite(risk).sum() > 1:
        by = "; on another platform pass scale='cohort'" if scale == "training" else "; the cut is of another scale"
        warnings.warn(
            f"all {int(np.isfinite(risk).sum())} risks are {found.pop()}: none is on the other side of the cut {cutoff:.3g}, and no "
            f"test can compare the groups (risks {np.nanmin(risk):.3g} to {np.nanmax(risk):.3g}){by}",
            stacklevel=3,
        )
    return pd.Categorical(names, categories=["low", "high"])
