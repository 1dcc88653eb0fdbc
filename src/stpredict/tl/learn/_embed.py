"""Embeddings of images and of expression in the space that a fitted model has drawn them together in."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._settings import settings
from stpredict.slots._container import begin
from stpredict.slots._content import seal_features
from stpredict.slots._keys import Key, check_key
from stpredict.slots._marks import mark_column, sections_record
from stpredict.slots._provenance import drop_records, write_record
from stpredict.slots._rows import rows_of
from stpredict.slots._values import OBS
from stpredict.targets import Expression, Values
from stpredict.tl.learn._members import people_of, recognized_sections, source_of
from stpredict.tl.learn.inputs._collect import collect
from stpredict.tl.learn.inputs._slots import check_features
from stpredict.tl.learn.targets._base import Keys, slots_for, slots_of

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

IMAGE, GENES = "image", "genes"


def embed(
    data: Container,
    model: FittedModel | str | Path,
    *,
    image: Any = None,
    key_added: str = "aligned",
    batch_size: int | None = None,
    device: str | None = None,
    progress: bool | None = None,
    copy: bool = False,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Place the images, and the measured expression, of observations in the space of a model that was trained by contrast.

    Parameters
    ----------
    data
        Sections with the features (or images) that the model reads; with expression, normalized as in its training, where the
        expression is to be embedded as well.
    model
        Model of :func:`stpredict.tl.align`, or of :func:`stpredict.tl.fit` with `"hescape"`, `"bleep"`, `"mclstexp"` or `"comtip"`; or the
        directory of a saved one.
    image
        Images that the object does not record.
    key_added
        Beginning of the slots.
    batch_size
        Observations, or sections, per step; it changes memory and speed only.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    progress
        Whether to show progress bars; `settings.progress` when `None`.
    copy
        Whether to return a changed copy instead.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the copy. Writes

    - `obsm["{key_added}_image"]` (n_obs, d) float32: embeddings of the images. They are features like any other, and those
      whom the model saw count as seen by whatever is fitted to them;
    - `obsm["{key_added}_genes"]` (n_obs, d) float32, where genes (or values) of the model were measured: embeddings of the
      expression; `NaN` for observations without. They are no features of a picture;
    - `obs["{key_added}_image_leaky"]` and `obs["{key_added}_genes_leaky"]`: whether the model saw the patient;
    - `uns["stpredict"]` under both names.

    Raises
    ------
    KeyError
        When features that the model reads are missing.
    TypeError
        When the model has no common space.
    ValueError
        When features or normalization differ from those of the training.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> train = adata.obs["patient"] != "P3"
    >>> model = stp.tl.fit(adata, "hescape", train, training={"max_epochs": 2})
    >>> stp.tl.embed(adata, model)
    >>> adata.obsm["aligned_image"].shape, adata.obsm["aligned_genes"].shape
    ((180, 128), (180, 128))
    """
    from stpredict.training import FittedModel

    check_key(key_added)
    fitted = model if isinstance(model, FittedModel) else FittedModel.load(model)
    container, adata = begin(data, copy, table_key, *fitted.features["slots"])
    keys = Keys(sample_key, patient_key)
    show = settings.progress if progress is None else progress
    found = embeddings(fitted, container, adata, keys, image=image, batch_size=batch_size, device=device, progress=show)
    people = people_of(adata, sample_key, patient_key)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    seen = fitted.training.patients_seen
    recognized = recognized_sections([fitted], adata, sample)
    marks = mark_column(people, seen, np.isin(sample, recognized))
    for side, values in found.items():
        slot = Key.embedded(key_added, side)
        if values is None:
            adata.obsm.pop(slot, None)
            adata.obs.drop(columns=Key.leaky(slot), inplace=True, errors="ignore")
            drop_records(adata, [slot])
            continue
        adata.obsm[slot] = values
        adata.obs[Key.leaky(slot)] = marks
        record = {
            "model": fitted.model,
            "dim": values.shape[1],
            "patients_seen": seen,
            "recognized": recognized or None,
        }
        if side == IMAGE:  # features of a picture, which say how they were made
            record |= {"encoder": f"{fitted.model} ({', '.join(fitted.features['slots']) or 'patches'})"}
            record |= {"fingerprint": _digest(fitted), **seal_features(values, sample)}
        write_record(adata, slot, record | sections_record(adata, sample_key))
    return container if copy else None


def embeddings(
    fitted: FittedModel,
    data: Container,
    adata: AnnData,
    keys: Keys,
    *,
    image: Any = None,
    batch_size: int | None = None,
    device: str | None = None,
    progress: bool = False,
    only: str | None = None,
) -> dict[str, np.ndarray | None]:
    """Embeddings (n_obs, d) float32 of the images and of the genes, `None` where no genes of the model were measured.

    `only` names the side that is asked for.
    """
    import torch

    from stpredict.core._device import resolve_device
    from stpredict.models.base._two_sides import TwoSides
    from stpredict.training._fit_arrays import prediction_groups

    network = fitted.network
    if not isinstance(network, TwoSides):
        raise TypeError(
            f"expected a model that places images and expression in one space (hescape, bleep, mclstexp, comtip); found "
            f"{fitted.model!r}; align them with stp.tl.align"
        )
    check_features(adata, fitted.features)
    rows = rows_of(adata, sample_key=keys.sample, patient_key=keys.patient)
    source = source_of(fitted, data, adata, rows, image=image, sample_key=keys.sample, progress=progress)
    arrays = collect(source, network.needs)
    measured = np.zeros(len(rows), dtype=bool)
    if only != IMAGE:
        arrays.target, measured = _measured(fitted, adata, rows, keys)
    found: dict[str, np.ndarray | None] = {IMAGE: None, GENES: None}

    def keep(side: str, part: Any, index: np.ndarray) -> None:
        array = found[side]
        if array is None:
            array = found[side] = np.full((len(arrays), part.shape[1]), np.nan, dtype=np.float32)
        array[index] = part.float().cpu().numpy()

    where = resolve_device(device)
    network.eval().to(where)
    try:
        with torch.inference_mode():
            for index in prediction_groups(network, arrays, batch_size) if only != GENES else []:
                batch = arrays.batch(index, network.needs).to(where)
                keep(IMAGE, network.embed_images(batch), index)
            told = np.flatnonzero(measured)
            part = arrays.take(told)
            for index in prediction_groups(network, part, batch_size) if len(told) else []:
                batch = part.batch(index, network.needs).to(where)
                assert batch.target is not None  # what was measured
                keep(GENES, network.embed_spots(batch, batch.target), told[index])
    finally:
        network.to("cpu")
    return found


def _measured(fitted: FittedModel, adata: AnnData, rows: Any, keys: Keys) -> tuple[np.ndarray | None, np.ndarray]:
    """What the model compares with images, of all rows, and which rows have it."""
    target: Any = fitted.target
    nothing = None, np.zeros(len(rows), dtype=bool)
    if target.kind == "expression":
        if not set(target.names) <= set(adata.var_names):
            return nothing
        request: Any = Expression(panel=target.names, layer=fitted.normalization.get("layer"))
        if request.layer is None:
            slots_of(target.kind).check(adata, target)
    elif target.kind == "values":
        of_obs = target.slot == OBS
        if not (set(target.names) <= set(adata.obs.columns) if of_obs else target.slot in adata.obsm):
            return nothing
        where: dict[str, Any] = {"obs": target.names} if of_obs else {"obsm": target.slot, "columns": target.names}
        request = Values(**where, link=target.link_name)
    else:
        return nothing
    reader = slots_for(request)
    measured = reader.usable(adata, request)
    if not measured.any():
        return nothing
    import torch

    values = reader.read(adata, request, target, rows, keys)
    outputs = target.outputs(torch.from_numpy(values)) if target.kind == "values" else None
    return values if outputs is None else outputs.numpy(), measured


def _digest(fitted: FittedModel) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(fitted.network.state_dict().items()):
        if not name.startswith("bank."):  # which embeds nothing
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
