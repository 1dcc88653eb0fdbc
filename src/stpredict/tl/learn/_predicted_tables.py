"""What a prediction is made of: tables of the model, of its baselines, and beside genes that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._keys import Key
from stpredict.tl.learn._members import predict_members, source_of
from stpredict.tl.learn._unseen import beside_unseen
from stpredict.tl.learn.inputs._gene_table import check_same_table
from stpredict.tl.learn.inputs._reader import Source, readers
from stpredict.tl.learn.targets._base import Outputs

if TYPE_CHECKING:
    from stpredict.models import Panel
    from stpredict.training import FittedModel


def panel_of(source: Source, genes: Sequence[str] | None, member: FittedModel) -> Panel | None:
    """What is known of genes that a network was perhaps not trained on."""
    from stpredict.models import INPUTS, Panel

    if genes is None:
        return None
    names = [str(gene) for gene in genes]
    check_unique(names, "genes")
    tables: dict[str, Any] = {}
    for name in sorted(member.network.needs):
        if INPUTS[name].axis == "gene":
            if known := member.training.extra.get(name):
                check_same_table(source.adata, source.config.gene_table, known, member.panel)
            tables |= readers()[name].read(replace(source, genes=names))
    if not tables:
        raise TypeError(
            f"expected a network that reads a table of genes for `genes=`; found {member.model!r}, which predicts the "
            "genes it was trained on"
        )
    return Panel(tuple(names), tables)


def with_baselines(key: str, members: list[FittedModel], baselines: Baselines) -> dict[str, list[FittedModel]]:
    """Models by slot of the baselines that are asked for and that all members have."""
    shared = [name for name in members[0].baselines if all(name in part.baselines for part in members)]
    names = chosen_baselines(baselines, shared)
    missing = [name for name in names if name not in shared]
    if missing:
        raise KeyError(
            f"expected baselines among those that the model was fitted with ({', '.join(shared) or 'none'}); found "
            f"{few(missing)}; name them in stp.tl.fit"
        )
    return {Key.baseline(key, name): [part.baselines[name] for part in members] for name in names}


def predicted_tables(
    groups: dict[str, list[FittedModel]],
    key: str,
    source: Source,
    people: np.ndarray,
    genes: Sequence[str] | None,
    drawn: dict[str, Any],
    beside: Sequence[str],
    **where: Any,
) -> tuple[Outputs, dict[str, np.ndarray]]:
    """Tables (n_obs, n_outputs) of every slot, those `beside` genes that were asked for too, and samples and quantiles by slot."""
    import pandas as pd

    frames: dict[str, pd.DataFrame] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, parts in groups.items():
        own = name == key
        part_source = source if own else source_of(parts[0], source.data, source.adata, source.rows, image=source.image)
        part_source = replace(part_source, sample_key=source.sample_key, progress=source.progress and own)
        found = predict_members(parts, part_source, people, **(drawn if own else {}), **where)
        columns = list(genes) if own and genes is not None else parts[0].panel
        frames[name] = pd.DataFrame(found.mean, index=source.adata.obs_names, columns=columns)
        if found.std is not None and own:
            frames[Key.std(name)] = pd.DataFrame(found.std, index=source.adata.obs_names, columns=columns)
        if own:
            kept = {Key.samples(key): found.samples, Key.quantiles(key): found.quantiles}
            arrays = {slot: values for slot, values in kept.items() if values is not None}
        if own and beside:

            def again(
                panel: Panel | None, parts: list[FittedModel] = parts, source: Source = part_source
            ) -> np.ndarray:
                return predict_members(parts, replace(source, progress=False), people, genes=panel, **where).mean

            tables = beside_unseen(beside, parts[0].network, drawn["genes"], found.mean, again, drawn["seed"])
            for other, values in tables.items():
                slot = Key.baseline(key, other)
                frames[slot] = pd.DataFrame(values, index=source.adata.obs_names, columns=columns)
    return Outputs(groups[key], frames), arrays
