"""Outcomes of patients from maps of their slides, by nested cross-validation, beside what is easier to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._optional import optional_import
from stpredict.core._settings import settings
from stpredict.core._validate import check_choice
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record
from stpredict.tl.outcomes._maps import Maps

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.tl.outcomes._result import OutcomeResult


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

    At last everything is fitted once more on all patients, for :func:`stpredict.tl.predict_outcome` on other cohorts;
    the number of epochs is then the median over all inner folds. The scores are not those of this last fit.

    In training the network sees the maps in random mirror images, and turned where rows and columns can be exchanged
    (not on the hexagonal lattice of Visium, which is known from :func:`stpredict.pp.grid`; arrays count as square).

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
        Of the network: `depths`, `dims`, `drop_path`, `augment`. Two small stages by default, which tens of patients can
        train; the published networks have four, `{"depths": (2, 2, 2, 2), "dims": (3, 4, 5, 6), "drop_path": 0.4}` for
        survival and `{"depths": (2, 2, 8, 2), "dims": (16, 24, 32, 40), "drop_path": 0.4}` for a response, and
        `"augment": False`.
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
    Scores, out-of-fold predictions of all models, the training history, and the models fitted on all patients, see
    :class:`stpredict.tl.OutcomeResult`, whose method `save` writes it to a directory. The scores of survival are those of
    :func:`stpredict.tl.survival`. Those of a response are, over patients, with intervals `_low` and `_high`: `auroc`,
    `auprc` (the share of responders for a model that knows nothing), `balanced_accuracy` at 0.5, and `accuracy`,
    `auroc_folds` (over pairs of one fold) and `prevalence`, which is the accuracy of knowing nothing when it is
    subtracted from 1.

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

    from stpredict.core._device import resolve_device
    from stpredict.tl.outcomes._cohort import check_folds, read_cohort, stratified_folds
    from stpredict.tl.outcomes._folds import cross_validate_outcome, fit_outcome_model
    from stpredict.tl.outcomes._network import NETWORK, NETWORKS, outcome_settings
    from stpredict.tl.outcomes._result import OutcomeResult
    from stpredict.tl.outcomes._scores import score_outcome

    check_choice(outcome, tuple(NETWORKS), "outcome")
    if outcome == "survival":
        optional_import("lifelines", "survival")
    if not 0 < level < 1 or n_boot < 1:
        raise ValueError(f"expected a level between 0 and 1 and at least one resample; found {level!r} and {n_boot!r}")
    sizes, config = outcome_settings(outcome, hyperparameters or {}, training or {})
    adata = get_table(slides, table_key)
    keys = (time, event) if outcome == "survival" else (response,)
    cohort = read_cohort(
        adata, outcome, maps, channels, clinical, features,
        keys=keys, allow_leakage=allow_leakage, sample_key=sample_key, patient_key=patient_key, table_key=table_key,
    )  # fmt: skip
    fold = stratified_folds(cohort.patient, cohort.stratum, n_folds, seed)
    check_folds(cohort, fold, n_folds, n_inner, keys[-1:])
    options: dict[str, Any] = {
        "n_inner": n_inner, "sizes": sizes, "config": config, "baselines": baselines, "device": resolve_device(device),
        "seed": seed,
    }  # fmt: skip
    show = settings.progress if progress is None else progress
    found = cross_validate_outcome(cohort, fold, progress=show, **options)
    table = score_outcome(cohort, found.scores, found.high, fold, level=level, n_boot=n_boot, seed=seed)
    model, history = fit_outcome_model(cohort, keys, epochs=found.epochs, allow_leakage=allow_leakage, **options)

    key = key_added or (Key.RISK if outcome == "survival" else Key.probability(response))
    adata.obs[key] = found.scores[NETWORK].astype(np.float32)
    if outcome == "survival":
        adata.obs[f"{key}_group"] = pd.Categorical(np.where(found.high[NETWORK], "high", "low"))
    adata.obs[Key.fold(key)] = fold
    adata.obs[Key.leaky(key)] = cohort.leaky
    record = {
        "model": NETWORK, "outcome": outcome, "channels": [channels] if isinstance(channels, str) else list(channels),
        "clinical": list(cohort.clinical.columns), "n_folds": n_folds, "n_inner": n_inner, "shape": cohort.maps.shape,
        "hyperparameters": sizes, "training": config.to_dict(), "seed": seed, "allow_leakage": allow_leakage,
    }  # fmt: skip
    write_record(adata, key, record)
    predictions = pd.DataFrame(found.scores, index=adata.obs_names)
    return OutcomeResult(table, predictions, pd.concat([found.history, history], ignore_index=True), model)
