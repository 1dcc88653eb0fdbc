"""Outcomes of patients from maps of their slides, by nested cross-validation, beside what is easier to have."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict import _provenance
from stpredict._container import get_table
from stpredict._keys import Key
from stpredict._optional import mend_torchvision, optional_import
from stpredict._outcome import patients_of, read_outcome
from stpredict._settings import settings
from stpredict._validate import _few, check_choice, check_obs, check_unique
from stpredict.tl._clinical import ClinicalEncoder, check_leaks
from stpredict.tl._outcome_maps import DenseMaps, Maps, dense_maps

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from anndata import AnnData

    from stpredict._container import Container
    from stpredict.models import Predictor
    from stpredict.training import ArraySet, TrainConfig

NETWORK, MAJORITY = "convnext", "majority"
#: Batches of whole risk sets for times; the batches of the published model for classes.
_TRAINING: dict[str, dict[str, Any]] = {
    "survival": {"learning_rate": 5e-3, "batch_size": 100_000, "max_epochs": 200, "patience": 20, "weight_decay": 0.05},
    "response": {"learning_rate": 1e-3, "batch_size": 20, "max_epochs": 200, "patience": 20, "weight_decay": 0.05},
}
_NETWORKS: dict[str, dict[str, Any]] = {
    "survival": {"depths": (2, 2, 2, 2), "dims": (3, 4, 5, 6)},
    "response": {"depths": (2, 2, 8, 2), "dims": (16, 24, 32, 40)},
}
_GIVEN = frozenset({"shape", "mask", "n_clinical", "class_weights"})  # follow from the data


@dataclass(frozen=True)
class OutcomeResult:
    """What nested cross-validation of an outcome found.

    Attributes
    ----------
    scores
        One row per model; `"convnext"` is the network, all others are baselines.
    predictions
        Out of fold, one row per slide and one column per model: log risk, or probability of the second class.
    history
        One row per epoch, inner fold (-1: the final fit on all inner folds) and outer fold of the network.
    """

    scores: pd.DataFrame
    predictions: pd.DataFrame
    history: pd.DataFrame


@dataclass
class _Cohort:
    """Slides as arrays: what is read, and what is predicted."""

    patient: np.ndarray
    maps: DenseMaps
    clinical: pd.DataFrame
    time: np.ndarray | None = None
    event: np.ndarray | None = None
    label: np.ndarray | None = None

    @property
    def stratum(self) -> np.ndarray:
        """Event or class of each slide (n,)."""
        values = self.event if self.label is None else self.label
        assert values is not None
        return values.astype(int)

    def outcome(self, rows: np.ndarray) -> dict[str, Any]:
        """Time, event and class of some rows, `None` for those there are not."""
        values = {"time": self.time, "event": self.event, "label": self.label}
        return {name: None if array is None else array[rows] for name, array in values.items()}


def fit_outcome(
    slides: Container,
    outcome: Literal["survival", "response"] = "survival",
    *,
    maps: Maps,
    channels: str | Sequence[str] = Key.PREDICTED,
    clinical: str | Sequence[str] | None = None,
    features: str | None = None,
    time: str = Key.TIME,
    event: str = Key.EVENT,
    response: str = "response",
    n_folds: int = 5,
    n_inner: int = 3,
    hyperparameters: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    baselines: bool = True,
    allow_leakage: bool = False,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    key_added: str | None = None,
    level: float = 0.95,
    n_boot: int = 2000,
    device: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> OutcomeResult:
    """Predict the survival or the response of patients from maps of their slides, and score it beside baselines.

    A ConvNeXt V2 :cite:p:`woo2023` reads the maps (predicted expression, image features, the tissue mask or any of them
    together), as proposed by :cite:p:`li2026`. Patients, not slides, are divided into folds, with the same share of
    events (or responders) in each. Within the training side of a fold, inner folds choose the number of epochs (the
    median of their best) and the penalties of the baselines; then everything is fitted on the whole training side, and
    the test side is read once. Scales, categories and weights of the classes come from the training side.

    Parameters
    ----------
    slides
        One row per slide, with the outcome and the covariates of its patient in `obs`.
    outcome
        `"survival"`: time and event, by the Cox loss. `"response"`: two classes, by cross-entropy in which both classes
        weigh the same.
    maps
        What the network reads: a mapping from the slide (`obs[sample_key]`, or the name of the row where there is no
        such column) to the AnnData of its spots or tiles with `obs["grid_row"]` and `obs["grid_col"]`
        (:func:`stpredict.pp.grid`), or to an array (channels, rows, columns) in which a cell of NaN or zeros in all
        channels is off the tissue; or one AnnData of the spots or tiles of all slides.
    channels
        Slots of `obsm` to read as channels of the maps, such as `"predicted"` or `"X_uni2-h"`, and `"mask"` for
        the tissue; several are read together. Of arrays all channels are read, unless `channels="mask"`.
    clinical
        Columns of `obs` that join the pooled maps: numbers are standardized, all else is split into categories.
    features
        Slot of `obsm` of the maps with image features, for the baseline on their mean; the first of `channels` that
        begins with `"X_"` when `None`.
    time, event
        Columns of `obs` with the follow-up time, and 1 where it ended in the event and 0 where it was censored.
    response
        Column of `obs` with two classes (boolean, 0 and 1, or categories); the second one is the response.
    n_folds, n_inner
        Number of outer and of inner folds.
    hyperparameters
        Of the network: `depths`, `dims`, `drop_path`; the published ones by default.
    training
        Departures from the training settings, see :class:`stpredict.training.TrainConfig`.
    baselines
        Add the baselines: `"majority"` (the same for everybody), `"clinical"`, `"mean map"` (channels averaged over the
        tissue), `"clinical + mean map"` and `"image features"`, linear with a ridge penalty.
    allow_leakage
        Accept covariates that determine the outcome; every score is then marked as leaky.
    sample_key, patient_key
        Columns of `obs` with the slide and the patient.
    key_added
        Column of the prediction; `"risk"` or `"response_probability"` when `None`.
    level, n_boot
        Level and resamples of the intervals over patients.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    seed
        Of folds, weights, order, dropped paths and resamples.
    progress
        Show a progress bar; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Scores, out-of-fold predictions of all models and the training history, see :class:`OutcomeResult`. The scores of
    survival are those of :func:`stpredict.tl.survival`. Those of a response are, over patients, with intervals `_low`
    and `_high`: `auroc`, `auprc` (the share of responders for a model that knows nothing), `balanced_accuracy` at 0.5,
    and `accuracy`, `auroc_folds` (over pairs of one fold) and `prevalence`, which is the accuracy of knowing nothing
    when it is subtracted from 1.

    Writes the predictions of the network: `obs["risk"]` (log hazard relative to the mean of the training side) and
    `obs["risk_group"]` (`"high"` above the median of the training side), or `obs["response_probability"]`; and, with
    the same beginning, `"_fold"`, `"_leaky"` and the provenance in `uns["stpredict"]`.

    Raises
    ------
    ImportError
        When lifelines is not installed (extra `survival`) and the outcome is survival.
    KeyError
        When a column, a slot or the map of a slide is missing.
    TypeError
        For unknown hyperparameters or training settings.
    ValueError
        When all follow-ups are censored, there are other than two classes, slides of a patient disagree, a covariate is
        or determines the outcome, or there are too few events (or patients of a class) for the folds.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"patient": np.arange(24).astype(str), "response": np.arange(24) % 2 == 0})
    >>> slides = ad.AnnData(obs=obs.set_index("s" + obs["patient"]))
    >>> maps = {name: rng.normal(size=(2, 8, 8)) + y for name, y in slides.obs["response"].items()}
    >>> result = stp.tl.fit_outcome(slides, "response", maps=maps, n_folds=2, n_inner=2, training={"max_epochs": 2})
    >>> result.scores["model"].tolist()
    ['convnext', 'majority', 'mean map']
    """
    import pandas as pd
    from tqdm.auto import tqdm

    from stpredict._device import resolve_device

    check_choice(outcome, tuple(_NETWORKS), "outcome")
    if outcome == "survival":
        optional_import("lifelines", "survival")
    if not 0 < level < 1 or n_boot < 1:
        raise ValueError(f"expected a level between 0 and 1 and at least one resample; found {level!r} and {n_boot!r}")
    sizes, config = _settings(outcome, hyperparameters or {}, training or {})
    adata = get_table(slides, table_key)
    cohort, leaky = _read(
        adata, outcome, maps, channels, clinical, features,
        keys=(time, event) if outcome == "survival" else (response,), allow_leakage=allow_leakage,
        sample_key=sample_key, patient_key=patient_key, table_key=table_key,
    )  # fmt: skip
    fold = stratified_folds(cohort.patient, cohort.stratum, n_folds, seed)
    _check_folds(cohort, fold, n_folds, n_inner, (event,) if outcome == "survival" else (response,))

    where = resolve_device(device)
    show = settings.progress if progress is None else progress
    scores: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    histories = []
    for number in tqdm(range(n_folds), desc="outcome", unit="fold", disable=not show):
        train, test = fold != number, fold == number
        encoder = ClinicalEncoder(cohort.clinical[train])
        covariates = encoder(cohort.clinical)
        inner = stratified_folds(cohort.patient[train], cohort.stratum[train], n_inner, seed)
        values, history = _fit_network(
            cohort, covariates, train, inner, sizes=sizes, config=config, device=where, seed=seed
        )
        histories.append(history.assign(fold=number))
        found = {NETWORK: values}
        if baselines:
            found |= _baselines(cohort, covariates, train, inner)
        for name, score in found.items():
            scores.setdefault(name, np.full(adata.n_obs, np.nan))
            high.setdefault(name, np.zeros(adata.n_obs, dtype=bool))
            if outcome == "survival":
                score = score - score[train].mean()
            scores[name][test] = score[test] if outcome == "survival" else 1 / (1 + np.exp(-score[test]))
            high[name][test] = score[test] > np.median(score[train])

    table = _score(adata, cohort, scores, high, fold, leaky, level=level, n_boot=n_boot, seed=seed)
    key = key_added or (Key.RISK if outcome == "survival" else Key.probability(response))
    adata.obs[key] = scores[NETWORK].astype(np.float32)
    if outcome == "survival":
        adata.obs[f"{key}_group"] = pd.Categorical(np.where(high[NETWORK], "high", "low"))
    adata.obs[Key.fold(key)] = fold
    adata.obs[Key.leaky(key)] = leaky
    record = {
        "model": NETWORK, "outcome": outcome, "channels": [channels] if isinstance(channels, str) else list(channels),
        "clinical": list(cohort.clinical.columns), "n_folds": n_folds, "n_inner": n_inner, "shape": cohort.maps.shape,
        "hyperparameters": sizes, "training": config.to_dict(), "seed": seed, "allow_leakage": allow_leakage,
    }  # fmt: skip
    _provenance.write(adata, key, record)
    predictions = pd.DataFrame(scores, index=adata.obs_names)
    return OutcomeResult(table, predictions, pd.concat(histories, ignore_index=True))


def stratified_folds(patient: np.ndarray, stratum: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold (n,) of each slide: patients are shuffled within their stratum, and dealt to the folds in turn."""
    names, first, of = np.unique(patient, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    dealt = shuffled[np.argsort(stratum[first][shuffled], kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    fold[dealt] = np.arange(len(names)) % n_folds
    return fold[of]


def _settings(
    outcome: str, hyperparameters: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[dict[str, Any], TrainConfig]:
    """Hyperparameters of the network and settings of its training, checked."""
    from stpredict.models._convnext import ConvNeXtConfig, ConvNeXtV2
    from stpredict.training import TrainConfig

    known = [f.name for f in fields(ConvNeXtConfig) if f.name not in _GIVEN]
    unknown = sorted(set(hyperparameters) - set(known))
    if unknown:
        raise TypeError(f"expected hyperparameters among {', '.join(known)}; found {', '.join(unknown)}")
    sizes = _NETWORKS[outcome] | dict(hyperparameters)
    ConvNeXtV2(1, **sizes)  # sizes that do not fit each other are found before anything is read
    config = TrainConfig().updated(_TRAINING[outcome]).updated(training)
    if config.monitor == "loss_then_correlation":
        raise ValueError("expected training['monitor'] to be 'loss' or 'correlation'; found 'loss_then_correlation'")
    return sizes, config


def _read(
    adata: AnnData,
    outcome: str,
    maps: Maps,
    channels: str | Sequence[str],
    clinical: str | Sequence[str] | None,
    features: str | None,
    *,
    keys: Sequence[str],
    allow_leakage: bool,
    sample_key: str,
    patient_key: str,
    table_key: str,
) -> tuple[_Cohort, np.ndarray]:
    """Outcome, covariates and maps of all slides, and which of them are leaky (n,)."""
    patient = patients_of(adata, patient_key)
    values: dict[str, np.ndarray] = {}
    if outcome == "survival":
        values["time"], values["event"] = read_outcome(adata, *keys, patient_key=patient_key)
    else:
        values["label"] = read_response(adata, keys[0], patient)
    columns = [clinical] if isinstance(clinical, str) else list(clinical or ())
    check_unique(columns, "clinical columns")
    for name in columns:
        check_obs(adata, name, "name the columns with covariates of the patients")
    frame = adata.obs[columns]
    first = np.unique(patient, return_index=True)[1]
    binary = {keys[-1]: values["event" if outcome == "survival" else "label"][first]}
    times = {keys[0]: values["time"][first]} if outcome == "survival" else {}
    leaky = np.zeros(adata.n_obs, dtype=bool)
    try:
        check_leaks(frame.iloc[first], keys, binary, times)
    except ValueError:
        if not allow_leakage:
            raise
        leaky[:] = True
    names = adata.obs[sample_key].astype(str).to_list() if sample_key in adata.obs else list(adata.obs_names)
    check_unique(names, "slides")
    wanted = [channels] if isinstance(channels, str) else list(channels)
    features = features or next((name for name in wanted if name.startswith("X_")), None)
    dense = dense_maps(maps, names, wanted, features, sample_key=sample_key, table_key=table_key)
    return _Cohort(patient, dense, frame, **values), leaky | dense.leaky


def read_response(adata: AnnData, key: str, patient: np.ndarray) -> np.ndarray:
    """Classes (n,) int64, 1 for the second of two; the slides of a patient must agree."""
    import pandas as pd

    check_obs(adata, key, "put the two classes there, or name their column with `response=`")
    column = adata.obs[key]
    if column.isna().any():
        raise ValueError(
            f"expected a response of every slide in obs[{key!r}]; found {int(column.isna().sum())} missing "
            f"(first {adata.obs_names[column.isna()][0]!r}); leave these slides out"
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = [name for name in column.cat.categories if (column == name).any()]
    else:
        names = sorted(column.unique())
    if len(names) != 2:
        raise ValueError(f"expected two classes in obs[{key!r}]; found {len(names)}: {_few(names)}")
    label = (column == names[1]).to_numpy().astype(np.int64)
    differing = pd.Series(label).groupby(patient).nunique()
    if (differing > 1).any():
        raise ValueError(
            f"expected one response per patient in obs[{key!r}]; found slides that disagree in "
            f"{_few(differing.index[differing > 1])}"
        )
    return label


def _check_folds(cohort: _Cohort, fold: np.ndarray, n_folds: int, n_inner: int, keys: Sequence[str]) -> None:
    """Raise unless training sides can be divided into inner folds which all have an event, or both classes."""
    n_patients = len(np.unique(cohort.patient))
    if not 2 <= n_folds <= n_patients or n_inner < 2:
        raise ValueError(
            f"expected between 2 folds and one per patient ({n_patients}), and at least 2 inner folds; found "
            f"n_folds={n_folds} and n_inner={n_inner}"
        )
    codes = (1,) if cohort.label is None else (0, 1)
    for number in range(n_folds):
        train = fold != number
        for code in codes:
            n = len(np.unique(cohort.patient[train & (cohort.stratum == code)]))
            if n < n_inner:
                what = "events" if cohort.label is None else "of each class"
                raise ValueError(
                    f"expected at least n_inner={n_inner} patients {'with ' if cohort.label is None else ''}{what} in "
                    f"obs[{keys[0]!r}] in the training side of every fold; found {n} in fold {number}; add patients, or "
                    "use fewer folds"
                )


def _fit_network(
    cohort: _Cohort,
    covariates: np.ndarray,
    train: np.ndarray,
    inner: np.ndarray,
    *,
    sizes: Mapping[str, Any],
    config: TrainConfig,
    device: torch.device,
    seed: int,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Choose the number of epochs on the inner folds, fit the whole training side, and predict every slide.

    Returns
    -------
    Log risks or logits (n,), and the history.
    """
    import pandas as pd
    import torch

    from stpredict.models._convnext import ConvNeXt, ConvNeXtConfig
    from stpredict.training import ArraySet, predict_arrays
    from stpredict.training._data import summarize

    mend_torchvision()
    from stpredict.training._loop import run_epochs

    n = len(cohort.patient)
    data = ArraySet(
        section=np.arange(n),
        patient=np.unique(cohort.patient, return_inverse=True)[1],
        features=covariates,
        bag=cohort.maps.values,
        bag_size=cohort.maps.tissue,
        n_classes=2 if cohort.label is not None else 0,
        **cohort.outcome(np.arange(n)),
    )
    weights: tuple[float, ...] = ()
    if cohort.label is not None:
        share = np.bincount(cohort.label[train], minlength=2) / train.sum()
        weights = tuple((0.5 / share).tolist())
    network_config = ConvNeXtConfig(
        shape=cohort.maps.shape, mask=cohort.maps.mask, n_clinical=covariates.shape[1], class_weights=weights, **sizes
    )
    training = data.take(train)

    def run(part: ArraySet, validation: ArraySet | None, settings: TrainConfig) -> tuple[Predictor, pd.DataFrame, int]:
        torch.manual_seed(seed)
        network = ConvNeXt(network_config, 1, data.bag.shape[2])  # type: ignore[union-attr]
        network.prepare(summarize(part, network.needs))
        with tempfile.TemporaryDirectory(prefix="stpredict-") as scratch:
            history, n_epochs = run_epochs(
                network, part, validation, settings,
                device=device, seed=seed, directory=Path(scratch), resume=False, progress=False,
            )  # fmt: skip
        return network, history, n_epochs

    histories, chosen = [], []
    with torch.random.fork_rng(devices=[]):
        for number in np.unique(inner) if config.patience > 0 else ():
            _, history, n_epochs = run(training.take(inner != number), training.take(inner == number), config)
            histories.append(history.assign(inner=number))
            chosen.append(n_epochs)
        n_epochs = int(np.median(chosen)) if chosen else config.max_epochs
        network, history, _ = run(training, None, replace(config, max_epochs=n_epochs, patience=0))
    histories.append(history.assign(inner=-1))
    score, _ = predict_arrays(network, data, batch_size=64, device=device)
    return score[:, 0].astype(np.float64), pd.concat(histories, ignore_index=True)


def _baselines(cohort: _Cohort, covariates: np.ndarray, train: np.ndarray, inner: np.ndarray) -> dict[str, np.ndarray]:
    """Log risks or logits (n,) of each baseline, fitted on the training side."""
    from stpredict.tl._linear_outcome import fit_linear_outcome

    inputs: dict[str, np.ndarray] = {}
    mean = cohort.maps.mean
    if covariates.shape[1]:
        inputs["clinical"] = covariates
    if mean.shape[1]:
        inputs["mean map"] = mean
    if len(inputs) == 2:
        inputs["clinical + mean map"] = np.concatenate([covariates, mean], axis=1)
    if cohort.maps.features is not None:
        inputs["image features"] = cohort.maps.features
    constant = 0.0
    if cohort.label is not None:
        constant = 20.0 * np.sign(2 * cohort.label[train].mean() - 1)
    found = {MAJORITY: np.full(len(train), constant)}
    for name, x in inputs.items():
        found[name] = fit_linear_outcome(x[train], inner, **cohort.outcome(train))(x)
    return found


def _score(
    adata: AnnData,
    cohort: _Cohort,
    scores: Mapping[str, np.ndarray],
    high: Mapping[str, np.ndarray],
    fold: np.ndarray,
    leaky: np.ndarray,
    *,
    level: float,
    n_boot: int,
    seed: int,
) -> pd.DataFrame:
    import pandas as pd

    if cohort.label is not None:
        rows = [
            {"model": name} | _response_scores(cohort.patient, cohort.label, values, fold, level, n_boot, seed)
            for name, values in scores.items()
        ]
        return pd.DataFrame(rows).assign(leaky=bool(leaky.any()))
    from anndata import AnnData

    from stpredict.tl._survival import survival

    tables = []
    for name, values in scores.items():
        obs = pd.DataFrame(
            {
                Key.PATIENT: cohort.patient, Key.TIME: cohort.time, Key.EVENT: cohort.event, Key.RISK: values,
                "risk_group": np.where(high[name], "high", "low"), Key.fold(Key.RISK): fold,
                Key.leaky(Key.RISK): leaky,
            },
            index=adata.obs_names,
        )  # fmt: skip
        table = survival(AnnData(obs=obs), level=level, n_boot=n_boot, seed=seed)
        table.insert(0, "model", name)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _response_scores(
    patient: np.ndarray,
    label: np.ndarray,
    probability: np.ndarray,
    fold: np.ndarray,
    level: float,
    n_boot: int,
    seed: int,
) -> dict[str, float]:
    """Scores over patients, whose slides are averaged."""
    import pandas as pd

    from stpredict.metrics._binary import auroc, average_precision, balanced_accuracy

    people = pd.DataFrame({"y": label, "p": probability, "fold": fold}).groupby(patient).mean()
    y, p = people["y"].to_numpy() == 1, people["p"].to_numpy()
    n = len(people)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    weights = np.concatenate([np.ones((1, n)), draws])
    record: dict[str, float] = {
        "n_patients": n, "n_slides": len(label), "n_positive": int(y.sum()), "prevalence": float(y.mean())
    }  # fmt: skip
    kinds = {"auroc": auroc, "auprc": average_precision, "balanced_accuracy": balanced_accuracy}
    for name, kind in kinds.items():
        values = kind(y, p, weights)
        low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
        record |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    record["accuracy"] = float(((p > 0.5) == y).mean())
    record["auroc_folds"] = float(auroc(y, p, strata=people["fold"].to_numpy())[0])
    return record
