"""Comparators of genes that a network was not trained on: what it says of them beyond what it says of genes in general."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._derangement import derangement
from stpredict.slots._baselines import Baselines, chosen_baselines

if TYPE_CHECKING:
    from stpredict.models import Panel, Predictor

#: A constant for each gene; the mean map of the panel; the map of the nearest gene of the panel; rows of other genes.
BESIDE_UNSEEN = ("mean", "mean_gene", "nearest_gene", "permuted_rows")


def check_beside(baselines: Baselines) -> list[str]:
    """Names of the comparators that are asked for; an error for others."""
    names = chosen_baselines(baselines, BESIDE_UNSEEN)
    unknown = [name for name in names if name not in BESIDE_UNSEEN]
    if unknown:
        raise KeyError(f"expected baselines of `genes=` among {', '.join(BESIDE_UNSEEN)}; found {', '.join(unknown)}")
    return names


def beside_unseen(
    names: Sequence[str],
    network: Predictor,
    asked: Panel,
    found: np.ndarray,
    predict: Callable[[Panel | None], np.ndarray],
    seed: int,
) -> dict[str, np.ndarray]:
    """Predictions (n, g) of comparators by name.

    Each gene keeps the level that was predicted of it, its mean over the observations, so that only maps are compared.

    Parameters
    ----------
    names
        Comparators.
    network
        The network.
    asked
        The genes.
    found
        (n, g) what was predicted of them.
    predict
        Predicts other genes for the same observations, or the panel (n, n_genes) for `None`.
    seed
        Random seed of the permutation.
    """
    from stpredict.models import Panel

    level = found.mean(axis=0, dtype=np.float64).astype(found.dtype)
    tables: dict[str, np.ndarray] = {"mean": np.broadcast_to(level, found.shape)}
    own = network.shape.genes
    if {"mean_gene", "nearest_gene"} & set(names):
        maps = predict(None)
        maps = maps - maps.mean(axis=0)
        tables["mean_gene"] = level + maps.mean(axis=1, keepdims=True)
        tables["nearest_gene"] = level + maps[:, nearest_genes(asked, own)]
    if "permuted_rows" in names:
        # Under names that the network does not know, or it would predict those of its panel as such.
        rows = {name: _permuted(own.tables[name], table, seed) for name, table in asked.tables.items()}
        maps = predict(Panel(tuple(f"{name} (permuted)" for name in asked.names), rows))
        tables["permuted_rows"] = level + maps - maps.mean(axis=0)
    return {name: np.ascontiguousarray(tables[name], dtype=found.dtype) for name in names}


def nearest_genes(asked: Panel, panel: Panel) -> np.ndarray:
    """Place (g,) in the panel of the gene whose rows resemble those of each gene most, by the cosine about their mean.

    A gene of the panel is compared with the others.
    """
    (name,) = asked.tables
    center = panel.tables[name].mean(axis=0)
    units = []
    for table in (asked.tables[name], panel.tables[name]):
        rows = np.asarray(table, dtype=np.float64) - center
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        units.append(rows / np.where(length > 0, length, 1))
    alike = units[0] @ units[1].T
    place = {gene: number for number, gene in enumerate(panel.names)}
    for number, gene in enumerate(asked.names):
        if gene in place and len(panel) > 1:
            alike[number, place[gene]] = -np.inf
    return alike.argmax(axis=1)


def _permuted(own: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
    """For each gene that is asked for the row of another one, of the panel or asked for as well."""
    table = np.concatenate([np.asarray(asked), np.asarray(own)])
    return table[derangement(len(table), seed)[: len(asked)]]
