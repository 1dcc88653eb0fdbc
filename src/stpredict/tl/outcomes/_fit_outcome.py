"""Outcomes of patients from maps of their slides, by nested cross-validation, beside what is easier to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._optional import optional_import
from stpredict.core._settings import settings
from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, check_key
from stpredict.slots._marks import written_marks
from stpredict.slots._provenance import write_record
from stpredict.targets import Classes, FollowUp
from stpredict.tl.learn.targets._base import slots_of
from stpredict.tl.outcomes._maps import Maps

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.tl.outcomes._result import OutcomeResult

BASELINES = ("majority", "clinical", "mean map", "clinical + mean map", "image features")
_LEVEL, _N_BOOT = 0.95, 2000


def fit_outcome(
    data: Container,
    target: FollowUp | Classes | str | None = None,
    *,
    maps: Maps,
    channels: str | Sequence[str] = Key.PREDICTED,
    clinical: str | Sequence[str] | None = None,
    n_folds: int | tuple[int, int] = (5, 3),
    hyperparameters: Mapping[str, Any] | str | None = None,
    training: Mapping[str, Any] | None = None,
    baselines: Baselines = True,
    allow_leakage: bool = False,
    n_jobs: int = 1,
    seed: int = 0,
    key_added: str | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
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
    data
        One row per slide, with the outcome and the covariates of its patient in `obs`.
    target
        What to predict: :class:`stpredict.targets.FollowUp`, by the Cox loss; or a column of `obs` with two classes
        (boolean, 0 and 1, or categories; or :class:`stpredict.targets.Classes`), the second of which is the response, by
        a cross-entropy in which both weigh the same.
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
    n_folds
        Number of outer and of inner folds.
    hyperparameters
        Departures from the defaults: `depths`, `dims`, `drop_path`, `augment`; or the name of a preset. Two small stages
        by default, which tens of patients can train; the published networks, with four and with their training
        settings, are the presets `"survival"` and `"response"`, and `"paper"` is the one for the outcome at hand. Another
        network on maps is named by `network`: with `{"network": "super_patches"}`, or `"super_patches"` for short
        (`"super_patches:paper"` for its preset), cells that touch and look alike are joined, and attention goes along the graph
        of these :cite:p:`gao2024`.
    training
        Departures from the training settings, those of a preset included; see
        :class:`stpredict.training.TrainConfig`.
    baselines
        Names of the baselines: `"majority"` (the same for everybody), `"clinical"`, `"mean map"` (channels averaged over
        the tissue), `"clinical + mean map"` and `"image features"` (their mean, from the first of `channels` that begins
        with `"X_"`; a slot of the maps, `"X_{encoder}"`, names another), linear with a ridge penalty. All of them for
        `True`, none for `False`; those that have nothing to read are left out.
    allow_leakage
        Whether to accept covariates that determine the outcome; every score is then marked as leaky.
    n_jobs
        Processes that work on folds side by side. The result does not depend on it.
    seed
        Random seed for folds, weights, order, dropped paths and resamples.
    key_added
        Column of the prediction; `"risk"` or `"{column}_probability"` when `None`.
    sample_key, patient_key
        Columns of `obs` with the slide and the patient.
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
    `obs["risk_group"]` (`"high"` above the median of the training side), or `obs["{column}_probability"]`; and, with
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
    >>> result = stp.tl.fit_outcome(slides, "response", maps=maps, n_folds=(2, 2), training={"max_epochs": 2})
    >>> result.scores["model"].tolist()
    ['convnext', 'majority', 'mean map']
    """
    import pandas as pd

    from stpredict.core._device import resolve_device
    from stpredict.tl.outcomes._cohort import check_folds, read_cohort, stratified_folds
    from stpredict.tl.outcomes._folds import cross_validate_outcome, fit_outcome_model
    from stpredict.tl.outcomes._network import chosen_network, outcome_settings
    from stpredict.tl.outcomes._result import OutcomeResult
    from stpredict.tl.outcomes._scores import score_outcome
    from stpredict.training.targets import ClassTarget, FollowUpTarget

    check_key(key_added)
    request = FollowUp() if target is None else Classes(target) if isinstance(target, str) else target
    if not isinstance(request, FollowUp | Classes):
        raise TypeError(
            f"expected the outcome as stp.targets.FollowUp, stp.targets.Classes or a column of obs; found {target!r}"
        )
    if isinstance(request, FollowUp):
        optional_import("lifelines", "survival")
    names = chosen_baselines(baselines, BASELINES)
    slots = [name for name in names if name.startswith("X_")]
    unknown = sorted(set(names) - {*BASELINES, *slots[:1]})
    if unknown:
        raise ValueError(
            f"expected baselines among {', '.join(BASELINES)} and one slot X_…; found {', '.join(unknown)}"
        )
    n_outer, n_inner = (n_folds, 3) if isinstance(n_folds, int) else n_folds
    kind = FollowUpTarget("", "") if isinstance(request, FollowUp) else ClassTarget("", ("", ""))
    network, given = chosen_network(hyperparameters)
    sizes, config = outcome_settings(kind, network, given, training or {})
    adata = get_table(data, table_key)
    cohort = read_cohort(
        adata, request, maps, channels, clinical, slots[0] if slots else None,
        allow_leakage=allow_leakage, sample_key=sample_key, patient_key=patient_key, table_key=table_key,
    )  # fmt: skip
    fold = stratified_folds(cohort.patient, cohort.stratum, n_outer, seed)
    column = request.event if isinstance(request, FollowUp) else request.key
    check_folds(cohort, fold, n_outer, n_inner, [column])
    options: dict[str, Any] = {
        "network": network, "n_inner": n_inner, "sizes": sizes, "config": config, "seed": seed,
        "baselines": [*names, "image features"] if slots else names,
    }  # fmt: skip
    device = resolve_device(config.device)
    found = cross_validate_outcome(cohort, fold, device=device, n_jobs=n_jobs, progress=settings.progress, **options)
    table = score_outcome(cohort, found.scores, found.high, fold, level=_LEVEL, n_boot=_N_BOOT, seed=seed)
    model = fit_outcome_model(cohort, epochs=found.epochs, allow_leakage=allow_leakage, device=device, **options)

    key = key_added or slots_of(cohort.target.kind).key(cohort.target)
    adata.obs[key] = found.scores[network].astype(np.float32)
    if cohort.is_risk:
        adata.obs[Key.group(key)] = pd.Categorical(np.where(found.high[network], "high", "low"))
    adata.obs[Key.fold(key)] = fold
    adata.obs[Key.leaky(key)] = written_marks(cohort.leaky)
    record = {
        "model": network, "target": cohort.target.to_dict(),
        "channels": [channels] if isinstance(channels, str) else list(channels),
        "clinical": list(cohort.clinical.columns), "n_folds": n_outer, "n_inner": n_inner, "shape": cohort.maps.shape,
        "hyperparameters": sizes, "training": config.to_dict(), "seed": seed, "allow_leakage": allow_leakage,
    }  # fmt: skip
    write_record(adata, key, record)
    predictions = pd.DataFrame(found.scores, index=adata.obs_names)
    return OutcomeResult(table, predictions, pd.concat([found.history, model.history], ignore_index=True), model)
