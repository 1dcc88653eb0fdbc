"""Draw the images and the expression of observations together in one space."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, check_key
from stpredict.targets import Values
from stpredict.tl.learn._embed import embed
from stpredict.tl.learn._fit import fit

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

_MODEL = "hescape"
_ENCODERS = ("mlp", "pca")


def align(
    data: Container,
    image: str | list[str] | Mapping[str, Any] | None = None,
    genes: str = "mlp",
    train: np.ndarray | str | None = None,
    *,
    objective: Literal["clip", "siglip"] = "clip",
    batches: Literal["across", "within"] = "across",
    target: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    path: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    allow_leakage: bool = False,
    seed: int = 0,
    key_added: str = "aligned",
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> FittedModel:
    """Align images with expression by contrast, for any encoder of either, and embed all observations.

    A head on image features and an encoder of expression are trained, so that those of one observation come to lie together and
    those of different ones of a batch apart :cite:p:`gindra2025`; see the network `hescape`. The number of epochs is chosen on
    held-out training patients. Whether an alignment is good is told by :func:`stpredict.tl.recall_at_k` on patients that were
    not in training, whether it helps or hurts the prediction of expression by :func:`stpredict.tl.linear_probe`, and what it
    knows of patients by :func:`stpredict.tl.batch_mixing`.

    Parameters
    ----------
    data
        Sections with image features and normalized expression in `X` (n_obs, n_genes).
    image
        Encoder or slot of `obsm` with image features, or several, or a mapping with `"slot"` and `"scaling"`, as `features` of
        :func:`stpredict.tl.fit`; the only one there is when `None`. They are frozen. Scaling within sections, the default,
        takes out what tells sections apart by their stain.
    genes
        Encoder of the expression: `"mlp"`, trained with the heads; `"pca"`, principal components of the training observations;
        or a slot of `obsm` with the embedding by a model of genes (scFoundation, Nicheformer, DRVI), which is frozen. Of such a
        slot nobody knows whom its model was trained on.
    train
        Boolean mask (n_obs,) or the name of a boolean column of `obs`; everything when `None`.
    objective
        `"clip"` or `"siglip"`.
    batches
        Whom negatives are taken from: `"across"` all patients, where staining or depth alone may tell many of them apart, or
        `"within"` one patient in each batch.
    target
        Genes, as in :func:`stpredict.tl.fit`; for `genes="mlp"` and `"pca"`.
    hyperparameters
        Departures from the defaults of `hescape`.
    training
        Changes to the training settings, see :class:`stpredict.training.TrainConfig`. More rows in a batch make the task
        harder, and the alignment finer.
    path, checkpoint_dir
        Directories for the model and for its checkpoints, as in :func:`stpredict.tl.fit`.
    allow_leakage
        Whether to accept a panel that was selected on other patients; recorded in the model.
    seed
        Random seed for weights, order, dropout and the inner split.
    key_added
        Beginning of the slots with embeddings.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The fitted model, which :func:`stpredict.tl.embed` applies to other objects. All observations of `data`, those outside
    `train` as well, are embedded: see there for what is written.

    Raises
    ------
    KeyError
        When features, normalization or the slot of `genes` are missing.
    ValueError
        When a setting has a value that it cannot have, or as in :func:`stpredict.tl.fit`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> train = (adata.obs["patient"] != "P3").to_numpy()
    >>> model = stp.tl.align(adata, "color-texture", "pca", train, training={"max_epochs": 2})
    >>> stp.tl.recall_at_k(adata, rows=~train)["pool"].tolist()
    ['within patients', 'within patients']
    """
    check_key(key_added)
    adata = get_table(data, table_key)
    chosen: dict[str, Any] = {"objective": objective, "batches": batches}
    if genes in _ENCODERS:
        chosen["gene_encoder"] = genes
    elif genes not in adata.obsm:
        raise KeyError(
            f"expected genes='mlp', 'pca' or a slot of obsm with an embedding of the expression; found {genes!r}, and slots "
            f"{sorted(adata.obsm)}"
        )
    elif target is not None:
        raise ValueError(
            f"expected no target beside obsm[{genes!r}], which is the target; found {target!r}; leave it out"
        )
    else:
        chosen["gene_encoder"], target = "identity", Values(obsm=genes, link="identity")
    twice = sorted(set(chosen) & set(hyperparameters or {}))
    if twice:
        raise ValueError(f"expected {', '.join(twice)} as arguments of their own; found them in hyperparameters")
    where: dict[str, Any] = {"sample_key": sample_key, "patient_key": patient_key, "table_key": table_key}
    model = fit(
        data, _MODEL, train,
        features=image, target=target, hyperparameters={**(hyperparameters or {}), **chosen}, training=training,
        baselines=False, path=path, checkpoint_dir=checkpoint_dir, allow_leakage=allow_leakage, seed=seed, **where,
    )  # fmt: skip
    embed(data, model, key_added=key_added, **where)
    return model
