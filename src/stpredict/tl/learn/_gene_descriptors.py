"""What a network of DNA says of genes, as numbers to know them by elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._checks import check_patients
from stpredict.slots._container import begin
from stpredict.slots._keys import Key, check_key
from stpredict.slots._people import among, one_name
from stpredict.slots._provenance import write_record
from stpredict.slots._rows import rows_of
from stpredict.slots._unit import group_keys, unit_of
from stpredict.tl.learn._members import source_of
from stpredict.tl.learn.inputs._collect import collect

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel


def gene_descriptors(
    data: Container,
    model: FittedModel | str | Path,
    *,
    batch_size: int | None = None,
    device: str | None = None,
    key_added: str = Key.DESCRIPTORS,
    copy: bool = False,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Describe genes by the last state of a network that reads their DNA, such as `"gta"` or `"seq2exp"`.

    :func:`stpredict.pp.gene_table` makes a table of them, by which networks of sections know genes that they never saw. A gene
    that the network of DNA was trained on is described by its expression as well: `obs["{key_added}_seen"]` says which.

    Parameters
    ----------
    data
        Table whose rows are genes, with what the model reads of them. Their expression is not needed.
    model
        Model that was fitted to genes, or the directory of a saved one.
    batch_size
        Genes per step; it changes memory and speed only.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    key_added
        Name of the slot.
    copy
        Whether to return a changed copy instead of changing `data`.
    patient_key
        Column of `obs` with what stood on one side of a split in the training, when that was not the chromosome.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: (n_genes, d) float32, the same for the same weights;
    - `obs["{key_added}_seen"]`: whether the model was trained on the chromosome of the gene;
    - `uns["stpredict"][key_added]`: the model, a `hash` of its configuration and weights, the chromosomes that it was trained on.

    Raises
    ------
    KeyError
        When inputs of the model are missing.
    TypeError
        When the network describes no genes.
    ValueError
        When the rows are no genes.

    Examples
    --------
    >>> import stpredict as stp
    >>> genes = stp.datasets.synthetic_genes(n_genes=40, width=64)
    >>> model = stp.tl.fit(genes, "gta", target="expr", hyperparameters="small", training={"max_epochs": 1})
    >>> stp.tl.gene_descriptors(genes, model)
    >>> genes.obsm["descriptors"].shape
    (40, 32)
    """
    import torch

    from stpredict.core._device import resolve_device
    from stpredict.models import Predictor
    from stpredict.training import FittedModel
    from stpredict.training._digests import network_digest
    from stpredict.training._fit_arrays import prediction_groups

    check_key(key_added)
    fitted = model if isinstance(model, FittedModel) else FittedModel.load(model)
    container, adata = begin(data, copy, table_key)
    network: Any = fitted.network
    if unit_of(adata) != "gene":
        raise ValueError(
            "expected a table whose rows are genes; found none; read one with stp.io.read_sequences, or call stp.pp.as_genes(adata)"
        )
    if type(network).encode is Predictor.encode or not {Key.SEQUENCE, Key.SEQUENCE_FEATURES} & network.needs:
        raise TypeError(
            f"expected a network that reads the DNA of genes and describes them, such as gta; found {fitted.model!r}; fit one with "
            "stp.tl.fit(genes, 'gta', target=…)"
        )
    group, _ = group_keys(adata, patient_key, patient_key)
    check_patients(adata, group, group)
    rows = rows_of(adata, sample_key=group, patient_key=group)
    arrays = collect(source_of(fitted, data, adata, rows, sample_key=group), network.needs)
    where, found = resolve_device(device), []
    network.eval().to(where)
    try:
        with torch.inference_mode():
            for index in prediction_groups(network, arrays, batch_size):
                state = network.encode(arrays.batch(index, network.needs).to(where))
                found.append(state.float().cpu().numpy())
    finally:
        network.to("cpu")
    values = np.concatenate(found)
    adata.obsm[key_added] = values
    adata.obs[Key.seen(key_added)] = among(one_name(adata.obs[group]), fitted.training.patients_seen)
    write_record(
        adata,
        key_added,
        {
            "model": fitted.model, "hash": network_digest(network), "dim": values.shape[1], "chromosomes": fitted.training.patients,
            "chrom_key": group,
        },
    )  # fmt: skip
    return container if copy else None
