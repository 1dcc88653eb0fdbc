"""Counts of genes: the panel, their dispersion, and the depth of every observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_choice, check_counts, check_unique
from stpredict.slots._checks import check_layer
from stpredict.slots._depth import depth_of
from stpredict.slots._expression import measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record
from stpredict.slots._rows import Rows
from stpredict.targets import Counts
from stpredict.tl.learn.targets._base import Keys, TargetSlots
from stpredict.tl.learn.targets._expression import (
    choose_panel,
    panel_counts_of,
    panel_strangers,
    rounded,
    training_rates,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.training.targets import Target


class CountsSlots(TargetSlots):
    """`layers["counts"]`; predictions are tables of rates per count in `obsm`."""

    kind = "counts"
    request = Counts
    closed_form = True
    maps = True
    stores = True
    quantities = True

    def resolve(
        self, adata: AnnData, request: Counts, train: np.ndarray, keys: Keys, *, allow_leakage: bool
    ) -> tuple[Target, list[str]]:
        """Choose the panel on the training rows, and learn proportions and dispersions from them."""
        from stpredict.training.targets import CountsTarget
        from stpredict.training.targets._counts import dispersions

        check_choice(request.family, ("negative_binomial", "poisson"), "family")
        check_unique(adata.var_names, "var_names (adata.var_names_make_unique() does that)")
        genes = choose_panel(adata, request.selection, train, keys, allow_leakage=allow_leakage)
        counts, depth = panel_counts_of(adata, genes, np.flatnonzero(train))
        rates, typical = training_rates(counts, depth)
        theta: tuple[float, ...] = ()
        if request.family == "negative_binomial":
            theta = tuple(rounded(dispersions(counts, depth[:, None], np.array(rates))))
        factors = str((read_record(adata, "normalize") or {}).get("size_factors", "all"))
        target = CountsTarget(tuple(genes), rates, theta, typical, factors)
        return target, panel_strangers(adata, request.selection, train, keys.patient)

    def usable(self, adata: AnnData, request: Counts) -> np.ndarray:
        """Observations with a measurement, and with counts."""
        check_layer(adata, Key.COUNTS, "put the raw counts there (stp.pp.normalize does that)")
        measured = measured_rows(adata, adata.layers[Key.COUNTS])
        depth = depth_of(adata)
        return measured if depth is None else measured & (np.nan_to_num(depth) > 0)

    def read(self, adata: AnnData, request: Counts, target: Target, rows: Rows, keys: Keys) -> np.ndarray:
        """Counts and the depth behind each (n, 2 n_genes) float32; NaN where nothing was measured.

        The level of a section is that of the rows that are read: no other row of it has a part in the target.
        """
        values = np.full((len(rows), 2 * len(target.names)), np.nan, dtype=np.float32)
        counts, depth = panel_counts_of(adata, target.names, rows.index[rows.measured])
        check_counts(counts, "counts of the training observations")
        overall = np.maximum(np.array(target.rates), 0.5 / max(float(depth.sum()), 1.0))  # type: ignore[attr-defined]
        depths = np.empty(counts.shape, dtype=np.float32)
        for code in np.unique(rows.section[rows.measured]):
            here = rows.section[rows.measured] == code
            own = np.maximum(counts[here].sum(axis=0, dtype=np.float64), 0.5) / depth[here].sum()
            depths[here] = depth[here][:, None] * (own / overall)
        values[rows.measured] = np.concatenate([counts, depths], axis=1)
        return values

    def key(self, target: Target) -> str:
        """`obsm["predicted"]`."""
        return Key.PREDICTED

    def check(self, adata: AnnData, target: Target) -> None:
        """Accept any object: rates have no unit to differ in."""
