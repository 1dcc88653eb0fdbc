"""Counts of genes: the panel, their dispersion, and the depth of every observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._count_rows import CountRows
from stpredict.core._moments import row_slices
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
        kept = rows.index[rows.measured]
        counts, depth = panel_counts_of(adata, target.names, kept)
        total = max(float(depth.sum()), 1.0)
        codes, section = np.unique(rows.section[rows.measured], return_inverse=True)
        sums, own = np.zeros((len(codes), len(target.names))), np.zeros(len(codes))
        np.add.at(own, section, depth)
        for part in row_slices(len(kept)):
            block = counts[part]
            check_counts(block, "counts of the training observations")
            for code in np.unique(section[part]):
                sums[code] += block[section[part] == code].sum(axis=0, dtype=np.float64)
        overall = np.maximum(np.array(target.rates), 0.5 / total)  # type: ignore[attr-defined]
        level = np.maximum(sums, 0.5) / own[:, None] / overall
        row, depths, code = np.full(len(rows), -1), np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
        row[rows.measured], depths[rows.measured], code[rows.measured] = np.arange(len(kept)), depth, section
        return CountRows(counts, row, depths, code, level)  # type: ignore[return-value]

    def key(self, target: Target) -> str:
        """`obsm["predicted"]`."""
        return Key.PREDICTED

    def check(self, adata: AnnData, target: Target) -> None:
        """Accept any object: rates have no unit to differ in."""
