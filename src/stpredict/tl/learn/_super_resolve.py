"""Expression of every place of a section, learned from its spots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_positive
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._keys import Key, check_key, storable
from stpredict.tl.learn._places import check_same_values, find_maps, maps_seen, spots_on
from stpredict.tl.learn._spot_target import Result, SpotTarget
from stpredict.tl.learn._super_fit import HEADS, Head, configured, run_group

if TYPE_CHECKING:
    import torch
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.tl.learn._places import Spots


def super_resolve(
    data: Container,
    features: Any = None,
    microns: float | None = None,
    head: Literal["ridge", "mlp"] = "ridge",
    *,
    n_members: int = 5,
    target: Any = None,
    counts: bool = False,
    train: Sequence[str] | None = None,
    n_blocks: int = 4,
    buffer_um: float | None = None,
    diameter_um: float | None = None,
    hyperparameters: Mapping[str, Any] | str | None = None,
    store: str | Path | None = None,
    chunk: int = 2**14,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    key_added: str = "super_resolved",
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> dict[str, DenseMap]:
    """Predict expression in every square place of a section, from its own spots :cite:p:`zhang2024istar`.

    A spot measures the mean over a disk of places. A head from the features of a place to its expression is fitted so that
    the means over the disks are what was measured. Its map says what is inside spots and between them; how far it is to be
    believed is said by blocks of spots that were held out, whose prediction is written for :func:`stpredict.tl.evaluate`.

    Parameters
    ----------
    data
        AnnData or SpatialData of spots, normalized by :func:`stpredict.pp.normalize`.
    features
        Maps of features by section: what :func:`stpredict.pp.dense_features` returned, a :class:`stpredict.pp.DenseMap` of
        your own array (alone for one section), or the path of their store. `None`, or an encoder, computes them. Sections
        that are not in the table are allowed, see `train`.
    microns
        Side of a place in µm, a multiple of that of the maps, whose places are then averaged; theirs when `None`, and 8
        where they are computed.
    head
        `"ridge"`: linear, in closed form, with a penalty for each gene. `"mlp"`: networks as published.
    n_members
        Networks of an `"mlp"`; fits of a `"ridge"` to resampled spots. Their spread is the standard deviation of the map; it
        says how much members disagree, and is not calibrated.
    target
        Genes: a list, a column of `var`, or :class:`stpredict.targets.Expression`; when `None`, `var["selected"]`, or all.
    counts
        Learn raw counts, as published, instead of `X`. The map is then in counts per place, and the places of a spot sum to
        the count of the spot. Raw counts carry the depth of a spot, which the picture partly shows: differences between
        places are then also differences of depth.
    train
        Sections to learn from together; the map of every other section is a prediction, marked in `uns`. When `None` every
        section learns from its own spots.
    n_blocks
        Blocks of each section's spots that are held out in turn, see :func:`stpredict.cohorts.spatial_blocks`; 0 for none,
        and then spots have the mean of the map, which saw them.
    buffer_um
        Distance between held-out spots and those trained on; when `None`, 1.1 times the reach of the features and the
        diameter of a spot.
    diameter_um
        Diameter of a spot; that of `uns["spatial"]` when `None`.
    hyperparameters
        Departures from the defaults of the head, or a preset of the `"mlp"`: `"paper"`, the published recipe, or `"small"`,
        which a CPU trains in seconds; see the methods.
    store
        Path of a Zarr store for the maps, which stay there; an earlier one is replaced. When `None` they are in memory.
    chunk
        Places that are held at once, which bounds the memory. It changes nothing else.
    seed
        Random seed.
    device
        Device of networks; `settings.device` when `None`.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    key_added
        Name of the prediction.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A :class:`stpredict.pp.DenseMap` per section, with the genes as `names`, and with `std` for several members. Writes

    - `obsm[key_added]`: prediction of each spot by a fit that did not see its block; of sections that were not learned from,
      the mean of the map over the spot. NaN for spots off tissue and in sections without a map.
    - `obs["{key_added}_fold"]`: which fit predicted a spot, and `obs["{key_added}_leaky"]`: `"within section"` for blocks; True
      where the fit saw the spot or its patient, where the block had a part in the choice of the genes, or its patient one in
      the features, as in a stain reference; `"unknown"` in place of the others where the `record` of a map does not say
      which `encoder` made it.
    - `uns["stpredict"][key_added]`: head, members, microns, features, `training_samples`, `transferred` (sections that were
      predicted and not learned from), `store`.
    - in a SpatialData, the image elements `{sample}_{key_added}` and `{sample}_{key_added}_std`, genes as channels.

    Raises
    ------
    KeyError
        When positions, sections, patients (for blocks), genes or counts are missing.
    ValueError
        When spots are not on the map, sizes are not known, a section has nothing to learn from, or blocks leave too little.
    TypeError
        When features or target are of another kind.
    OSError
        When the store cannot be written.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 5, n_spots=150)
    >>> stp.pp.normalize(adata)
    >>> maps = stp.tl.super_resolve(adata, microns=16)
    >>> maps["P1_S1"].names == tuple(adata.var_names)
    True
    >>> scores = stp.tl.evaluate(adata, key="super_resolved")
    """
    from contextlib import nullcontext
    from dataclasses import asdict

    from stpredict.core._settings import settings
    from stpredict.io._dense_files import new_dense_store, read_dense
    from stpredict.slots._checks import check_obs, check_obsm
    from stpredict.slots._container import get_table
    from stpredict.tl.learn.targets._base import Keys

    check_key(key_added)
    config = configured(check_choice(head, HEADS, "head"), hyperparameters)
    for name, value, least in (("n_members", n_members, 1), ("chunk", chunk, 1), ("n_blocks", n_blocks, 0)):
        if isinstance(value, bool) or int(value) != value or value < least:
            raise ValueError(f"expected {name} as a whole number of at least {least}; found {value!r}")
    if store is not None and isinstance(features, str | Path) and Path(features).resolve() == Path(store).resolve():
        raise ValueError(f"expected another path for the maps than that of the features; found {store} for both")
    adata, keys = get_table(data, table_key), Keys(sample_key, patient_key)
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, which writes positions")
    show = settings.progress if progress is None else progress
    inputs = find_maps(data, adata, features, microns, sample_key, table_key, show)
    check_same_values(inputs)
    diameter_um = None if diameter_um is None else check_positive(diameter_um, "diameter_um")
    learned = SpotTarget.of(adata, target, keys, counts=counts)
    own = learned.sections(list(inputs), train)
    spots = _laid(adata, inputs, own, diameter_um, sample_key)
    groups = [([name], [name]) for name in own] if train is None else [(own, list(inputs))]
    learner = Head(head, config, int(n_members), seed, device, int(chunk))
    result = Result.empty(adata.n_obs, learned.genes)
    with nullcontext() if store is None else new_dense_store(store) as group:
        for names, targets in groups:
            run_group(
                learner, learned, spots, names, targets, result,
                n_blocks=int(n_blocks), buffer_um=buffer_um, group=group, progress=show,
            )  # fmt: skip
    people = learned.people()
    if people is not None:  # otherwise nobody can be told from anybody, and marks say so
        result.mark_seen(people, maps_seen(inputs))
    if store is not None:
        result.maps = read_dense(store)
    record = {
        "model": "istar",
        "head": head,
        "n_members": int(n_members),
        "hyperparameters": {name: _plain(value) for name, value in asdict(config).items()},
        "features": dict(next(iter(inputs.values())).record),
        "microns": next(iter(inputs.values())).microns,
        "n_blocks": int(n_blocks),
        "training_samples": own,
        "transferred": [name for name in inputs if name not in own],
        "samples": sorted(set(inputs) & set(adata.obs[sample_key].astype(str))),
        "sample_key": sample_key,
        "seed": seed,
        "store": None if store is None else str(store),
        "facts": result.facts,
    }
    result.write(adata, key_added, record, learned)
    _add_elements(data, result.maps, key_added)
    return result.maps


def _laid(
    adata: AnnData, maps: Mapping[str, DenseMap], own: Sequence[str], diameter_um: float | None, sample_key: str
) -> dict[str, Spots]:
    """The spots on tissue of every section on its map; sections without spots have disks of the size of the others."""
    from stpredict.slots._expression import in_tissue

    names, tissue = adata.obs[sample_key].astype(str).to_numpy(), in_tissue(adata)
    rows = {name: np.flatnonzero((names == name) & tissue) for name in maps}
    first = spots_on(adata, own[0], maps[own[0]], rows[own[0]], diameter_um)
    return {
        name: first
        if name == own[0]
        else spots_on(adata, name, dense, rows[name], diameter_um if len(rows[name]) else first.diameter_um)
        for name, dense in maps.items()
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _add_elements(data: Container, maps: Mapping[str, DenseMap], key: str) -> None:
    """Image elements of a SpatialData, in place of those of an earlier call."""
    from stpredict.slots._container import is_spatialdata

    if not is_spatialdata(data):
        return
    from stpredict.io._dense_files import dense_element

    for sample, dense in maps.items():
        for ending, std in (("", False), ("_std", True)):
            name = f"{storable(sample)}_{key}{ending}"
            if name in data.images:
                del data.images[name]
            if not std or dense.std is not None:
                data.images[name] = dense_element(dense, sample, std=std)
