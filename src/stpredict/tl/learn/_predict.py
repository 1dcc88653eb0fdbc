"""Predict the target of a model for every observation of an object."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import Cohort
from stpredict.core._engine import check_client, connected
from stpredict.core._settings import settings
from stpredict.metrics import sample_quantiles
from stpredict.slots._baselines import Baselines
from stpredict.slots._container import begin, find_table, get_table, is_spatialdata
from stpredict.slots._gene_tables import table_patients, table_record
from stpredict.slots._keys import Key, check_key
from stpredict.slots._marks import mark_column, sections_record
from stpredict.slots._prediction import write_predictions
from stpredict.slots._provenance import genes_digest
from stpredict.slots._rows import Rows, rows_of
from stpredict.slots._unit import group_keys
from stpredict.tl.learn._members import (
    extrapolates,
    find_models,
    people_of,
    recognized_sections,
    source_of,
)
from stpredict.tl.learn._predict_sections import predict_sections
from stpredict.tl.learn._predicted_tables import panel_of, predicted_tables, with_baselines
from stpredict.tl.learn._sample_store import SampleStore
from stpredict.tl.learn._unseen import check_beside
from stpredict.tl.learn.inputs._nuclei_graph import NAME as NUCLEI_GRAPH
from stpredict.tl.learn.inputs._slots import check_features, features_like, unlike_sizes
from stpredict.tl.learn.targets._base import Outputs, slots_of, unit_record

_FEW = 10  # observations of a section, whose own mean and spread its features are scaled by

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.training import FittedModel


def predict(
    data: Container | Cohort,
    model: FittedModel | str | Path | Sequence[FittedModel | str | Path] | None = None,
    *,
    image: Any = None,
    baselines: Baselines = True,
    window: int = 10,
    stride: int = 1,
    min_tiles: int | None = None,
    store: str | Path | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    genes: Sequence[str] | None = None,
    n_samples: int = 0,
    quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    client: Any = None,
    key_added: str | None = None,
    progress: bool | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Predict the target of a model for every observation: the expression of its panel, values, classes, or a risk.

    A network on bags predicts one profile per slide from a table of slides, and a map from the tiles of a slide: it
    reads square windows of tiles, and a tile gets the mean over the windows that cover it.

    Parameters
    ----------
    data
        Sections with the features (or images) that the model was fitted on; slides with bags; or, for a map with a
        network on bags, a slide or a table with the features of its tiles. Every section of a :class:`stpredict.Cohort` is
        predicted into its file, or with `store` into `{store}/{section}.zarr`, as :func:`stpredict.get.predicted` gives it.
    model
        Fitted model, or the directory of a saved one; several (the folds of :func:`stpredict.tl.fit_folds`) are
        averaged; the model that :func:`stpredict.tl.fit` left in this object when `None`.
    image
        Images that the object does not record: a path, an array, or a mapping from section to either.
    baselines
        Names of the baselines to predict with beside the model; all that were fitted with it for `True`, none for
        `False`, and none for maps. With `genes` these are others: `"mean"`, a constant for each gene; `"mean_gene"`, the mean
        of what is predicted of all genes of the panel; `"nearest_gene"`, what is predicted of the gene of the panel whose row
        is most like that of the gene; `"permuted_rows"`, what the model predicts by the rows of other genes.
    window
        Side of a window of a map in tiles.
    stride
        Step between the windows of a map in tiles.
    min_tiles
        Number of tiles that a window of a map needs to be used; more than half of it by default. A tile that no such
        window covers gets the window around it with the most tiles.
    store
        Path of an AnnData in Zarr to write the map of one slide to, gene by gene, in memory that does not grow with the
        number of genes; an interrupted call goes on where it stopped. What `obsm` holds of
        an earlier prediction stays if these models made it. With `n_samples`, the
        path of a Zarr group for the samples, instead of the object.
    sample_key, patient_key
        Columns of `obs` with the section and the patient. Where the rows are genes, see :func:`stpredict.pp.as_genes`, neither is
        needed: their chromosomes stand for both, or what else is named as `patient_key`.
    genes
        Genes to predict instead of the model's panel, for networks that can through what they know of genes (a table in
        `varm` of `data`). Score them per gene over observations, beside their baselines: a correlation across genes says how
        abundant genes are.
    n_samples
        Samples per observation, for networks that draw samples. Networks may draw the same for an observation, by its name
        and the seed, whichever others there are; `"stem"` does.
    quantiles
        Levels of the quantiles of the samples that are written, see :func:`stpredict.metrics.sample_quantiles`.
    seed
        Random seed for the samples.
    batch_size
        Observations, bags, grids or windows per step; it changes memory and speed, not the result.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers share the work: the sections of a cohort,
        which they open by their paths; steps of rows of an object in memory, or blocks of windows of a map, which are sent to
        them. On processors the result is that of this process, bit for bit where both have as many threads; see the page on
        clusters.
    key_added
        Slot of the prediction; `"predicted"`, `"risk"` for follow-up, `"{column}_probability"` for classes, when
        `None`.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData; of a slide, the table of the tiles is found by the encoder.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: float32 (n_obs, n_genes), in the unit of the training target;
    - `obsm["{key_added}_std"]`: standard deviations of the same shape, where the model gives them, those of the samples
      where it draws some; between the models where there are several;
    - with `n_samples`, `obsm["{key_added}_samples"]`: float32 (n_obs, n_samples, n_genes), unless a `store` is named, and
      `obsm["{key_added}_quantiles"]`: float32 (n_obs, n_quantiles, n_genes), with the levels as `quantiles` in the record;
    - `obsm["{key_added}_baseline_{name}"]`: the same for each baseline;
    - `obs["{key_added}_leaky"]`: whether the model was trained, or its panel selected, on this observation's patient, or on
      spots of one of their sections under another name; `"unknown"` for `False` where the patients behind the weights, the
      panel or the features were not recorded;
    - `uns["stpredict"][key_added]`: the `genes` of the columns (`values` where these are predicted, with their `units`, their
      `link` and, as `values_in`, where they were measured), model, training patients and sections, seed;
    - `obs["{key_added}_panel"]`: a digest of these genes, which ties every row to them.

    :func:`stpredict.get.predicted` returns all of it with the names of the genes.

    For a map also `obs["{key_added}_n_windows"]` and `obs["{key_added}_partial"]`, whether only windows with fewer than
    `min_tiles` tiles cover the tile. Lay the tiles with `stp.pp.tiles(slide, max_tiles=None)`: a draw of them leaves
    windows with holes. For follow-up, instead of the slots of `obsm`, `obs["risk"]` (log hazard relative
    to the mean of the training set) and, of slides, `obs["risk_group"]` (`"high"` above the median of the training set).
    For two classes `obs["{column}_probability"]` of the second; for more `obsm["{column}_probability"]` and
    `obs["{column}_predicted"]`. With `n_samples` and `store`, a Zarr group with `samples` (n_obs, n_samples, n_genes), `obs_names` and `genes`.

    Raises
    ------
    KeyError
        When there is no model, or the features it needs are missing.
    TypeError
        When `genes` are asked of a network that predicts those of its training only.
    ValueError
        When features, µm/px or normalization differ from the training's, the message names both sides; when several
        models do not predict the same genes in the same unit; when samples are asked of a network that draws none.
    OSError
        When the map cannot be written to `store`; the same call goes on with what is written.

    Warns
    -----
    UserWarning
        When `model` is `None`, with the path that the object names and that is read. When the samples cannot be written. When
        a section has fewer than 10 observations and features are standardized within sections. When the network of a map was
        trained on nothing smaller than a slide; the record then has `extrapolated`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> train = adata.obs["patient"] == "P1"
    >>> model = stp.tl.fit(adata, train=train)
    >>> stp.tl.predict(adata, model)
    >>> adata.obsm["predicted"].shape
    (120, 20)
    """
    if isinstance(data, Cohort):
        predict_sections(predict, locals())
        return None
    check_key(key_added)
    check_client(client)
    if n_samples and client is not None:
        raise ValueError(
            f"expected no client beside n_samples, as each sample is drawn after the one before; found n_samples={n_samples}; "
            "leave `client=` out"
        )
    members = find_models(data, model, table_key)
    if is_spatialdata(data) and not data.tables:
        key, entry = next(iter(members[0].features["slots"].items()), ("", None))
        call = "pass a table of spots, tiles or cells" if entry is None else features_like(key, entry, None)
        raise KeyError(f"expected a table of tiles with the features that the model reads; found no table; {call}")
    table_key = find_table(data, table_key, *members[0].features["slots"])
    source = get_table(data, table_key)
    sample_key, patient_key = group_keys(source, sample_key, patient_key)
    people = people_of(source, sample_key, patient_key)
    target = members[0].target
    slots = slots_of(target.kind)
    key = key_added or slots.key(target)
    show = settings.progress if progress is None else progress
    for part in members:
        slots.check(source, part.target)
        check_features(source, part.features)
    beside = [] if genes is None else check_beside(baselines)
    sample_quantiles(np.zeros((1, 1, 1)), quantiles)  # levels that are none are refused before any work
    as_map = "tokens" in members[0].network.needs and not all(
        Key.bag(slot) in source.obsm for slot in members[0].features["slots"]
    )
    _check_options(members, as_map=as_map, store=store, genes=genes, n_samples=n_samples)

    about = slots.record(target)
    if target.quantities and genes is None:
        about = {**about, **unit_record([target], target.names), "training_spread": members[0].training.spread}
    behind: set[str] = set()
    sample = source.obs[sample_key].astype(str).to_numpy()
    recognized = recognized_sections(members, source, sample)
    seen = sorted({name for part in members for name in part.training.patients_seen})
    if as_map:
        options: dict[str, Any] = {"window": window, "stride": stride, "min_tiles": min_tiles, "store": store}
        if extrapolates(members):
            about = {**about, "extrapolated": True}
        who = {
            "patients_seen": seen,
            **sections_record(source, sample_key),
            "model": members[0].model,
            "n_models": len(members),
        }
        options["record"] = {"target": target.kind, "names": slots.names, **about, **who}
        options["marks"] = mark_column(people, seen, np.isin(sample, recognized))
        with connected(client) as there:
            options |= {"batch_size": batch_size, "device": device, "progress": show, "client": there}
            outputs = _map(source, members, key, options, sample_key)
        arrays: dict[str, np.ndarray] = {}
    else:
        rows = rows_of(source, sample_key=sample_key, patient_key=None)
        origin = source_of(members[0], data, source, rows, image=image, sample_key=sample_key, progress=show)
        _warn_if_few(members[0], rows)
        drawn: dict[str, Any] = {"n_samples": n_samples, "seed": seed, "genes": panel_of(origin, genes, members[0])}
        drawn["quantiles"] = quantiles
        if genes is not None:  # what the table says of them may come from the expression of these patients
            behind = set(table_patients(table_record(source, members[0].network.config.gene_table)))
        groups = {key: members} | ({} if genes is not None else with_baselines(key, members, baselines))
        where: dict[str, Any] = {"batch_size": batch_size, "device": device}
        if n_samples and store is not None:
            with SampleStore(store, list(source.obs_names), genes or target.names, n_samples) as samples:
                taken = drawn | {"take_samples": samples.take}
                outputs, arrays = predicted_tables(groups, key, origin, people, genes, taken, beside, **where)
                store = samples.finish()
        else:
            with connected(client) as there:
                where["client"] = there
                outputs, arrays = predicted_tables(groups, key, origin, people, genes, drawn, beside, **where)
    outputs = slots.arrange(key, outputs)

    container, adata = begin(data, copy, table_key)
    seen = sorted({*seen, *behind})
    first = members[0]
    record = {
        "model": first.model,
        "n_models": len(members),
        "training_patients": sorted({p for part in members for p in part.training.patients}),
        "patients_seen": seen,
        "training_samples": sorted({p for part in members for p in part.training.samples}),
        **sections_record(source, sample_key),
        "recognized": recognized or None,
        "panel_digest": genes_digest(genes or first.panel),
        "seed": first.training.seed,
        "allow_leakage": any(part.training.allow_leakage for part in members),
        "target": target.kind,
        **about,
    }
    if as_map:
        record |= {"window": window, "stride": stride, "store": None if store is None else str(store)}
    if sizes := unlike_sizes(adata, first.features):
        record["tile_um"] = sizes
    if n_samples:
        record |= {"n_samples": n_samples, "samples_seed": seed, "store": None if store is None else str(store)}
        record["quantiles"] = [float(level) for level in quantiles]
    write_predictions(adata, key, outputs.frames, record, names=slots.names, elsewhere=as_map and store is not None)
    for slot, values in arrays.items():
        adata.obsm[slot] = values
    marks = mark_column(people, seen, np.isin(sample, recognized))
    for name, values in ({Key.leaky(key): marks} | outputs.columns).items():
        adata.obs[name] = values
    return container if copy else None


def _warn_if_few(member: FittedModel, rows: Rows) -> None:
    """Say where a section has so few rows that standardizing its features leaves little of them."""
    standardized = member.features["slots"] or NUCLEI_GRAPH in member.network.needs
    if member.features["scaling"] != "section" or not standardized:
        return
    names, sizes = np.unique(rows.sample, return_counts=True)
    if (few_rows := sizes < _FEW).any():
        warnings.warn(
            f"section {names[few_rows][0]!r} has {int(sizes[few_rows][0])} observations, by which its features are "
            f"standardized; predict sections as a whole, or fit with features={{'slot': …, 'scaling': 'global'}}",
            stacklevel=3,
        )


def _check_options(
    members: Sequence[FittedModel],
    *,
    as_map: bool,
    store: str | Path | None,
    genes: Sequence[str] | None,
    n_samples: int,
) -> None:
    """Raise where options do not go with what is predicted."""
    target = members[0].target
    slots = slots_of(target.kind)
    if n_samples < 0 or int(n_samples) != n_samples:
        raise ValueError(f"expected n_samples to be a whole number of at least 0; found {n_samples!r}")
    if as_map and not slots.maps:
        raise ValueError(
            f"expected a model of expression, counts, values or follow-up for a map; found one of {target.kind.replace('_', '-')}; "
            "predict slides as a whole: stp.tl.predict(stp.pp.bag(slides), model)"
        )
    if store is not None and not (slots.stores and (as_map or n_samples)):
        raise ValueError(
            "expected `store=` with a map of expression, counts or values (a network on bags, and the tiles of a slide), or "
            "with `n_samples`; found " + ("neither" if slots.stores else f"a model of {target.kind.replace('_', '-')}")
        )
    if as_map and (genes is not None or n_samples):
        raise ValueError("expected no `genes=` and no `n_samples=` for a map; found some; take maps of the whole panel")
    if (genes is not None or n_samples) and (len(members) > 1 or target.kind != "expression"):
        raise ValueError(
            "expected one model of expression for `genes=` and `n_samples=`; found "
            f"{len(members)} of {target.kind.replace('_', '-')}"
        )


def _map(
    adata: AnnData,
    members: list[FittedModel],
    key: str,
    options: dict[str, Any],
    sample_key: str,
) -> Outputs:
    """Map of the tiles of slides, and the windows behind it."""
    import pandas as pd

    from stpredict.tl.maps._map import map_table

    slot = next(iter(members[0].features["slots"]))
    frame, n_windows, partial = map_table(adata, members, slot, sample_key=sample_key, key_added=key, **options)
    columns = {Key.n_windows(key): n_windows, Key.partial(key): partial}
    return Outputs(members, {key: frame} if isinstance(frame, pd.DataFrame) else {}, as_map=True, columns=columns)
