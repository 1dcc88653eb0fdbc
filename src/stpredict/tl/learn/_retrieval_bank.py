"""Give a fitted retrieval model other measured sections to look up."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._settings import settings
from stpredict.core._validate import few
from stpredict.slots._checks import as_mask, check_patients
from stpredict.slots._container import get_table
from stpredict.slots._content import remember
from stpredict.slots._expression import read_normalization
from stpredict.slots._keys import Key
from stpredict.slots._people import one_name
from stpredict.slots._rows import rows_of
from stpredict.targets import Expression
from stpredict.tl.learn._fit import check_measured, with_target
from stpredict.tl.learn._members import source_of
from stpredict.tl.learn.inputs._collect import collect
from stpredict.tl.learn.inputs._slots import check_features
from stpredict.tl.learn.targets._base import Keys, slots_for, slots_of
from stpredict.tl.learn.targets._expression import check_normalization

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel


def retrieval_bank(
    data: Container,
    model: FittedModel | str | Path,
    train: np.ndarray | str | None = None,
    *,
    layer: str | None = None,
    image: Any = None,
    same_patient: bool | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    allow_leakage: bool = False,
    device: str | None = None,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> FittedModel:
    """Replace the spots that a fitted retrieval model looks up by those of other measured sections.

    The weights stay as they are. Predictions then are averages of the given spots: of another cohort, another protocol, or
    more patients than the model was trained on. They are pulled towards the mean of these spots by as much as those of the
    training were towards theirs (`shrink` of the networks).

    Parameters
    ----------
    data
        Measured sections, normalized as the model's training data were.
    model
        Fitted retrieval model (`"bleep"`, `"mclstexp"`), or the directory of a saved one.
    train
        Boolean mask (n_obs,) or the name of a boolean column of `obs`: the spots to look up; all when `None`.
    layer
        Layer with the expression instead of `X`; the one that the model was fitted on.
    image
        Images that the object does not record, for models whose bank holds something of the image.
    same_patient
        Whether predictions also look up spots of their own patient; as the model was configured when `None`.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    allow_leakage
        Whether to accept a patient with observations inside and outside `train`; recorded in the model.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    progress
        Whether to show progress bars; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A new model; the given one and `data` stay as they are. `training.patients` and `training.samples` are those of the
    bank; the patients whom the weights were trained on stay known as `training.pretraining_patients`, so that
    predictions of either are marked as leaky.

    Raises
    ------
    KeyError
        When the object says nothing about its normalization, or features that the bank is made of are missing.
    ValueError
        When the model keeps no bank, a gene of its panel was not measured, normalization or features differ from those
        of its training data, `train` is empty or not measured, or a patient is on both sides of `train`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> model = stp.tl.fit(
    ...     adata,
    ...     "bleep",
    ...     adata.obs["patient"] == "P1",
    ...     hyperparameters={"image_encoder": "features"},
    ...     training={"max_epochs": 2},
    ... )
    >>> other = stp.tl.retrieval_bank(adata, model, adata.obs["patient"] == "P2")
    >>> other.training.patients, other.training.pretraining_patients
    (['P2'], ['P1'])
    """
    from stpredict.core._device import resolve_device
    from stpredict.models import get_model
    from stpredict.models.nn._bank import Bank
    from stpredict.training import FittedModel
    from stpredict.training._fit_arrays import show_rows

    adata = get_table(data, table_key)
    fitted = model if isinstance(model, FittedModel) else FittedModel.load(model)
    network = fitted.network
    if not isinstance(getattr(network, "bank", None), Bank):
        raise ValueError(
            f"expected a model that looks up training spots (bleep, mclstexp); found {fitted.model!r}, which keeps none"
        )
    if not slots_of(fitted.target.kind).of_genes:
        raise ValueError(
            f"expected a model of genes, which other sections were measured for; found one of {fitted.target.kind}; fit it to "
            "all sections with these values"
        )
    check_patients(adata, sample_key, patient_key)
    mask = as_mask(adata, train)
    patient = one_name(adata.obs[patient_key])
    both = sorted(set(patient[mask]) & set(patient[~mask]))
    if both and not allow_leakage:
        raise ValueError(
            f"expected every patient on one side of `train` only; found {few(both)} on both: their other sections would "
            "look up their own; pass whole patients, or allow_leakage=True"
        )
    missing = [gene for gene in fitted.panel if gene not in adata.var_names]
    if missing:
        raise ValueError(
            f"expected a bank with the {len(fitted.panel)} genes of the model's panel; found a bank from another panel, "
            f"without {few(missing)} ({len(missing)} missing); take sections in which they were measured"
        )
    wanted, found = (
        {k: v.get(k) for k in ("method", "layer")} for v in (fitted.normalization, read_normalization(adata, layer))
    )
    if wanted != found:
        raise ValueError(
            f"expected the normalization of the model's training data, {wanted}; found {found}; "
            "run stp.pp.normalize with the settings of the model, or name its layer"
        )
    check_normalization(adata, fitted.normalization)
    request = Expression(panel=fitted.panel, layer=layer)
    reader, keys = slots_for(request), Keys(sample_key, patient_key)
    usable = reader.usable(adata, request)
    check_measured(mask & ~usable, get_model(fitted.model))
    needs = frozenset(getattr(network, "bank_reads", network.needs))
    if "features" in needs:
        check_features(adata, fitted.features)
    rows = replace(rows_of(adata, mask, sample_key=sample_key, patient_key=patient_key), measured=usable[mask])
    show = settings.progress if progress is None else progress
    source = source_of(fitted, data, adata, rows, image=image, sample_key=sample_key, progress=show)
    arrays = collect(replace(source, genes=fitted.panel), needs)
    arrays = with_target(arrays, fitted.target, reader.read(adata, request, fitted.target, rows, keys), rows.measured)

    renewed = deepcopy(network)
    if same_patient is not None:
        renewed.config = replace(renewed.config, same_patient=same_patient)
    show_rows(renewed, "finish", arrays, device=resolve_device(device))
    facts = replace(
        fitted.training,
        patients=rows.patients,
        samples=rows.sections,
        n_obs=len(rows),
        pretraining_patients=fitted.training.patients_seen,
        content=[
            *fitted.training.content,
            remember(adata, rows.index, rows.sample, panel=fitted.panel, slots=source.slots),
        ],
        allow_leakage=bool(fitted.training.allow_leakage or both),
    )
    return replace(
        fitted,
        network=renewed.eval(),
        features=dict(fitted.features),
        training=facts,
        history=fitted.history.copy(),
        baselines=dict(fitted.baselines),
    )
