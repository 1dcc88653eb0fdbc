"""Whether features know tissue or patient: the robustness index, and probes whose training is biased by patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_positive
from stpredict.slots._checks import as_mask, check_obs
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._spread import sampled_rows

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container


def robustness(
    data: Container,
    keys: str | Sequence[str],
    label_key: str = Key.LABEL,
    *,
    rows: np.ndarray | str | None = None,
    n_neighbors: int = 50,
    n_obs: int = 3000,
    n_repeats: int = 10,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Tell whether features know the tissue of an observation or its patient.

    Two measures. The robustness index :cite:p:`dejong2025` counts neighbors of the same tissue in other patients against those
    of another tissue in the same patient. Biased probes :cite:p:`koemen2025` are trained where tissue and patient go together,
    one tissue from one half of the patients and the other tissue from the other half, and tested where they do not: what their
    accuracy loses against a probe on as many observations of both tissues from all patients is what features offer to be
    mistaken for tissue.

    Parameters
    ----------
    data
        Object with features in `obsm` and labels of tissue in `obs`.
    keys
        Slots of `obsm` to compare. Columns are standardized first, over the observations looked at.
    label_key
        Column of `obs` with the tissue; observations without (`NaN`) are left out. Probes are of the two labels that most
        observations of patients with both have.
    rows
        Boolean mask (n_obs,) or the name of a boolean column of `obs`; all observations when `None`.
    n_neighbors
        Nearest observations that are looked at around each.
    n_obs
        Most observations that are looked at, as many of each section, drawn at random: time grows with the square of their
        number.
    n_repeats
        Divisions of the patients in halves, each drawn at random, over which probes are averaged.
    seed
        Random seed.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per key; nothing is written to `data`:

    - `robustness_index`, and what it is when the features are shuffled among the observations (`robustness_chance`), which
      differs from 0.5 as labels and patients do in number;
    - `accuracy` of the probe on all patients, `accuracy_biased`, their difference `drop`, and the accuracy of the biased probe
      where tissue and patient go together as in its training (`accuracy_in_bias`); chance is 0.5. Observations of training and
      test are different ones of the same sections. NaN where fewer than two patients have both labels;
    - `labels` of the probes, `n_obs`, `n_patients` of the index and `n_patients_probe`.

    Raises
    ------
    KeyError
        When a slot or a column is missing.
    ValueError
        When a slot has no finite values in labelled rows, or a number is out of range.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=80, n_genes=5)
    >>> stp.pp.image_features(adata)
    >>> table = stp.tl.robustness(adata, "X_color-texture")
    >>> bool(0 <= table["robustness_index"].iloc[0] <= 1)
    True
    """
    import pandas as pd

    from stpredict.core._table import compact
    from stpredict.metrics import robustness_index

    adata = get_table(data, table_key)
    check_obs(adata, label_key, "name a column with the tissue of observations")
    for name, value in (("n_neighbors", n_neighbors), ("n_obs", n_obs), ("n_repeats", n_repeats)):
        check_positive(value, name)
    wanted = np.flatnonzero(as_mask(adata, rows, "rows") & adata.obs[label_key].notna().to_numpy())
    if len(wanted) < 3:
        raise ValueError(f"expected at least 3 observations with a label in obs[{label_key!r}]; found {len(wanted)}")
    lines = []
    for key in [keys] if isinstance(keys, str) else list(keys):
        of, values = sampled_rows(adata, key, wanted, n_obs, seed, sample_key=sample_key, patient_key=patient_key)
        label = adata.obs[label_key].astype(str).to_numpy()[of.index]
        shuffled = values[np.random.default_rng(seed).permutation(len(values))]
        line: dict[str, Any] = {"key": key}
        for name, each in (("robustness_index", values), ("robustness_chance", shuffled)):
            line[name] = robustness_index(each, label, of.person, n_neighbors=int(n_neighbors))
        pair, patients = _pair(label, of.person)
        line |= _probes(values, label, of.person, pair, patients, int(n_repeats), seed)
        line |= {
            "labels": " and ".join(pair), "n_obs": len(of), "n_patients": len(np.unique(of.person)),
            "n_patients_probe": len(patients),
        }  # fmt: skip
        lines.append(line)
    shown = [
        "key",
        "robustness_index",
        "robustness_chance",
        "accuracy",
        "accuracy_biased",
        "drop",
        "labels",
        "n_patients",
    ]
    return compact(pd.DataFrame(lines), shown)


def _pair(label: np.ndarray, person: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """The two labels with the most observations in patients with both, four of each at least, and these patients."""
    import pandas as pd

    counts = pd.crosstab(label, person)
    best: tuple[int, tuple[str, ...], np.ndarray] = (0, (), np.array([], dtype=int))
    for first, second in combinations(counts.index, 2):
        fewer = np.minimum(counts.loc[first], counts.loc[second])
        usable = fewer[fewer >= 4]
        if len(usable) > 1 and int(usable.sum()) > best[0]:
            best = int(usable.sum()), (str(first), str(second)), usable.index.to_numpy()
    return best[1], best[2]


def _probes(
    values: np.ndarray,
    label: np.ndarray,
    person: np.ndarray,
    pair: tuple[str, ...],
    patients: np.ndarray,
    n_repeats: int,
    seed: int,
) -> dict[str, float]:
    """Accuracies of probes, averaged over divisions of the patients."""
    names = ("accuracy", "accuracy_biased", "drop", "accuracy_in_bias")
    if len(patients) < 2:
        return dict.fromkeys(names, float("nan"))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_repeats):
        half = np.isin(person, rng.permutation(patients)[: len(patients) // 2])
        train, test = _cells(label, person, pair, patients, rng)
        truth = label == pair[1]
        with_bias = truth == half  # one label from one half, the other from the other
        plain = _probe(values, truth, _thinned(train, truth, half, with_bias, rng))
        biased = _probe(values, truth, train[with_bias[train]])
        right = {name: model(values[test]) == truth[test] for name, model in (("plain", plain), ("biased", biased))}
        inside = with_bias[test]
        # Cells with and without the bias weigh the same.
        scores = {name: (of[inside].mean() + of[~inside].mean()) / 2 for name, of in right.items()}
        found.append(
            (scores["plain"], scores["biased"], scores["plain"] - scores["biased"], right["biased"][inside].mean())
        )
    return dict(zip(names, map(float, np.mean(found, axis=0)), strict=True))


def _cells(
    label: np.ndarray, person: np.ndarray, pair: tuple[str, ...], patients: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows: as many of each label in each patient, half of them each."""
    train, test = [], []
    for rows in _equal_cells(label, person, pair, patients, rng):
        train.append(rows[: len(rows) // 2])
        test.append(rows[len(rows) // 2 :])
    return np.concatenate(train), np.concatenate(test)


def _equal_cells(
    label: np.ndarray, person: np.ndarray, pair: tuple[str, ...], patients: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    for patient in patients:
        cells = [rng.permutation(np.flatnonzero((person == patient) & (label == name))) for name in pair]
        n = min(map(len, cells))
        yield from (cell[:n] for cell in cells)


def _thinned(
    train: np.ndarray, truth: np.ndarray, half: np.ndarray, with_bias: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """As many training rows of each label as the biased ones have, from both halves alike."""
    kept = []
    for positive in (False, True):
        own = train[truth[train] == positive]
        n = int(with_bias[own].sum())
        for side, size in ((False, n // 2), (True, n - n // 2)):
            kept.append(rng.permutation(own[half[own] == side])[:size])
    return np.concatenate(kept)


def _probe(values: np.ndarray, truth: np.ndarray, train: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(class_weight="balanced", max_iter=500).fit(values[train], truth[train]).predict
