"""The positions of DNA that a network reads a gene by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._container import begin, find_table, get_table
from stpredict.slots._keys import Key, check_key
from stpredict.slots._provenance import write_record
from stpredict.slots._rows import rows_of
from stpredict.slots._unit import group_keys
from stpredict.tl.learn._members import find_models, source_of
from stpredict.tl.learn.inputs._collect import collect

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

_MASK = "mask"


def regulatory_mask(
    data: Container,
    model: FittedModel | str | Path | None = None,
    *,
    batch_size: int | None = None,
    device: str | None = None,
    key_added: str = "regulatory_mask",
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Write the mask through which a network reads the DNA of each gene: the regulatory elements that it has found.

    The mask says which positions the network needed to tell the genes of its training apart, and how sure it is. Where signals
    of open chromatin are read, they alone make a mask: compare it with that of a network on the sequence, and of one on
    the signals (`hyperparameters={"inputs": ("sequence",)}`). The promoter is 1 and what is left out is 0 by rule, not by finding.

    Parameters
    ----------
    data
        Genes with the inputs that the model was fitted on.
    model
        Fitted model, or the directory of a saved one; the model that :func:`stpredict.tl.fit` left in this object when
        `None`. Of several (the folds of :func:`stpredict.tl.fit_folds`) the mean is taken.
    batch_size
        Genes per step; it changes memory and speed, not the result.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    key_added
        Slot of the result.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: (n_obs, length) float16 between 0 and 1, the share of each position; of a hard mask 0 or 1;
    - `obs["{key_added}_open"]`: the mean share of the positions that no rule decides;
    - `uns["stpredict"][key_added]`: model, number of models, first and last base (exclusive) of the promoter.

    Raises
    ------
    KeyError
        When there is no model, or inputs that it needs are missing.
    ValueError
        When the network reads no sequence through a mask.

    Examples
    --------
    >>> import stpredict as stp
    >>> genes = stp.datasets.synthetic_genes(n_genes=40, width=128)
    >>> model = stp.tl.fit(genes, "seq2exp", target="expr", hyperparameters="small", training={"max_epochs": 1})
    >>> stp.tl.regulatory_mask(genes, model)
    >>> genes.obsm["regulatory_mask"].shape
    (40, 128)
    """
    import torch

    from stpredict.core._device import resolve_device
    from stpredict.training._fit_arrays import prediction_groups

    check_key(key_added)
    members = find_models(data, model, table_key)
    first = members[0]
    if not hasattr(first.network, "masked"):
        raise ValueError(
            f"expected a network that reads sequences through a mask; found {first.model!r}; fit 'seq2exp' to genes"
        )
    table_key = find_table(data, table_key, *first.features["slots"])
    source = get_table(data, table_key)
    sample_key, _ = group_keys(source, Key.SAMPLE, Key.PATIENT)
    origin = source_of(first, data, source, rows_of(source, sample_key=sample_key, patient_key=None))
    arrays = collect(origin, first.network.needs).unmeasured()
    where = resolve_device(device)
    found: np.ndarray | None = None
    share = np.zeros(source.n_obs)
    for member in members:
        network: Any = member.network.eval().to(where)
        try:
            with torch.inference_mode():
                for index in prediction_groups(network, arrays, batch_size):
                    batch = arrays.batch(index, network.needs).to(where)
                    mask = network.predict(batch).extras[_MASK].float()
                    if found is None:
                        found = np.zeros((len(arrays), mask.shape[1]), dtype=np.float16)
                    promoter = network.promoter(mask.shape[1])
                    free = batch["sequence_mask"] == 0
                    free[:, promoter] = False
                    found[index] += (mask / len(members)).half().cpu().numpy()
                    mean = (mask * free).sum(dim=1) / free.sum(dim=1).clamp_min(1)
                    share[index] += mean.cpu().numpy() / len(members)
        finally:
            network.to("cpu")
    assert found is not None  # there is at least one row
    container, adata = begin(data, copy, table_key)
    adata.obsm[key_added] = found
    adata.obs[f"{key_added}_open"] = share
    record = {"model": first.model, "n_models": len(members), "promoter": [promoter.start, promoter.stop]}
    write_record(adata, key_added, record)
    return container if copy else None
