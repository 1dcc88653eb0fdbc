"""Judge predicted regions of a section by their annotation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._checks import check_obs, check_patients
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks
from stpredict.slots._people import one_name
from stpredict.slots._prediction import prediction_frame

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container


def segmentation(
    data: Container,
    label: str = "tumor",
    key: str | None = None,
    *,
    threshold: float = 0.5,
    baselines: Baselines = True,
    summarize: bool = False,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Compare predicted regions, such as tumor, with their annotation on the tissue of each section.

    Observations off the tissue and those without an annotation or a prediction are left out. Of several classes each is
    judged against all others, and an observation is predicted to be in its most probable class.

    Parameters
    ----------
    data
        AnnData or SpatialData of sections with the annotation and the probabilities that :func:`stpredict.tl.predict`
        wrote.
    label
        Column of `obs` with the annotation: boolean, or categorical with two or more classes.
    key
        Column of `obs` with the probability of the positive class, or slot of `obsm` with one column per class;
        `"{label}_probability"` when `None`.
    threshold
        Probability above which an observation is predicted to be in the positive class of two.
    baselines
        Names of the baselines: `"majority"`, the most frequent class of the other patients, or of all sections where
        there is one patient only (also for `True`; none for `False`). A prediction that does not beat it has found no
        region.
    summarize
        Whether to return the mean over patients with its interval :cite:p:`efron1993`, and how often each score is
        undefined, instead of one row per section.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    level, n_boot, seed
        Level, number of resamples and random seed of the intervals over patients.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per model (`"model"`, `"majority"`), class and section; nothing is written to `data`: `model`,
    `class`, `sample`, `patient`, `n_obs`, `n_positive`, `prevalence`, the scores of
    :func:`stpredict.metrics.segmentation`, `n_undefined` (how many of them are undefined in this section) and `leaky`
    (`True` where the model saw this patient, `"unknown"` where the prediction has lost its record or never had one).

    With `summarize=True` one row per model, class and score: `model`, `class`, `score`, `mean` (sections within
    patients, then patients), `low`, `high`, `n_sections`, `n_patients`, `n_undefined` (sections left out because the
    score is undefined there) and `leaky`.

    Raises
    ------
    KeyError
        When the annotation or the probability is missing.
    ValueError
        When there are fewer than two classes, a class has no probability, a probability is not between 0 and 1, or no
        observation has both an annotation and a prediction; or when the classes of the probabilities are not known.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> x = adata.obsm["spatial"][:, 0]
    >>> adata.obs["tumor"], adata.obs["tumor_probability"] = x > np.median(x), (x - x.min()) / np.ptp(x)
    >>> table = stp.tl.segmentation(adata)
    >>> table["model"].tolist()
    ['model', 'model', 'majority', 'majority']
    """
    import pandas as pd

    from stpredict.metrics._segmentation import SCORES, region_scores

    adata = get_table(data, table_key)
    check_obs(adata, label, "put the annotation there, or name its column with `label=`")
    check_patients(adata, sample_key, patient_key)
    key = key or Key.probability(label)
    classes, truth = _classes(adata, label)
    probability, names = _probability(adata, key, classes)
    rows = in_tissue(adata) & (truth >= 0) & ~np.isnan(probability).any(axis=1)
    if not rows.any():
        raise ValueError(
            f"expected tissue with both obs[{label!r}] and a prediction {key!r}; found none; run stp.tl.predict"
        )
    outside = (probability[rows] < 0) | (probability[rows] > 1)
    if outside.any():
        raise ValueError(
            f"expected probabilities between 0 and 1 in {key!r}; found {probability[rows][outside][0]:g}; "
            "take the sigmoid or softmax of logits"
        )
    sample, patient = adata.obs[sample_key].astype(str).to_numpy(), one_name(adata.obs[patient_key])
    leaky = leak_marks(adata, key, patient_key)
    binary = probability.shape[1] == 1
    chosen = (probability[:, 0] > threshold).astype(int) if binary else probability.argmax(axis=1)
    records = []
    for model in ("model", *chosen_baselines(baselines, ("majority",))):
        for name in np.unique(sample[rows]):
            section_rows = np.flatnonzero(rows & (sample == name))
            person = patient[section_rows[0]]
            for number, column in enumerate(names):
                code = classes.index(column)
                inside = truth[section_rows] == code
                if model == "model":
                    score, predicted = (
                        probability[section_rows, number],
                        chosen[section_rows] == (1 if binary else number),
                    )
                else:
                    other_patients = rows & (patient != person)
                    most = np.bincount(
                        truth[other_patients if other_patients.any() else rows], minlength=len(classes)
                    ).argmax()
                    score, predicted = np.zeros(len(section_rows)), np.full(len(section_rows), most == code)
                scores = region_scores(inside, predicted, score)
                records.append(
                    {
                        "model": model, "class": column, "sample": name, "patient": person,
                        "n_obs": len(section_rows), "n_positive": int(inside.sum()), "prevalence": float(inside.mean()),
                        **scores,
                        "n_undefined": int(np.isnan(list(scores.values())).sum()),
                        "leaky": joint_mark(leaky[section_rows]) if model == "model" else False,
                    }
                )  # fmt: skip
    table = pd.DataFrame(records)
    return _summary(table, SCORES, level, n_boot, seed) if summarize else table


def _classes(adata: AnnData, label: str) -> tuple[list[str], np.ndarray]:
    """Names of the classes in the order of :func:`stpredict.tl.fit`, and codes (n_obs,), -1 for none."""
    import pandas as pd

    values = adata.obs[label]
    if isinstance(values.dtype, pd.CategoricalDtype):
        names = [str(name) for name in values.cat.categories]
    else:
        names = [str(name) for name in sorted(values.dropna().unique())]
    if set(names) <= {"False", "True"} and names:
        names = ["False", "True"]  # the class of a model, also where these sections have one of them only
    if len(names) < 2:
        raise ValueError(f"expected two classes or more in obs[{label!r}]; found {', '.join(names) or 'none'}")
    text = values.astype(object).where(values.notna(), None).map(lambda v: None if v is None else str(v))
    codes = pd.Index(names).get_indexer(pd.Index(text, dtype=object))
    return names, codes


def _probability(adata: AnnData, key: str, classes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Probabilities (n_obs, n_columns) and the class of each column."""
    if key in adata.obsm:
        frame = prediction_frame(adata, key).rename(columns=str)
        missing = [name for name in classes if name not in frame]
        if missing:
            raise ValueError(f"expected one column per class in obsm[{key!r}]; missing {', '.join(missing)}")
        return frame[classes].to_numpy(dtype=np.float64), classes
    check_obs(adata, key, "run stp.tl.predict with a model fitted with `target=`, or name the column with `key=`")
    if len(classes) > 2:
        raise ValueError(
            f"expected one probability per class in obsm[{key!r}] for {len(classes)} classes; found one column in obs"
        )
    return adata.obs[key].to_numpy(dtype=np.float64, na_value=np.nan)[:, None], classes[1:]


def _summary(table: pd.DataFrame, scores: tuple[str, ...], level: float, n_boot: int, seed: int) -> pd.DataFrame:
    import pandas as pd

    from stpredict.metrics import bootstrap_mean

    parts = []
    for (model, name), part in table.groupby(["model", "class"], sort=False):
        values = part[list(scores)].to_numpy()
        mean, low, high = bootstrap_mean(values, part["patient"], n_boot=n_boot, level=level, seed=seed)
        head = {"model": model, "class": name, "score": list(scores), "mean": mean, "low": low, "high": high}
        head |= {"n_sections": len(part), "n_patients": part["patient"].nunique()}
        head |= {"n_undefined": np.isnan(values).sum(axis=0), "leaky": joint_mark(part["leaky"])}
        parts.append(pd.DataFrame(head))
    return pd.concat(parts, ignore_index=True)
