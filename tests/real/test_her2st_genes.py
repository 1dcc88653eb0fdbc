"""Normalization, gene selection and noise ceilings on three sections of the HER2-positive breast tumors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

HER2ST = Path(__file__).resolve().parents[3] / "shared" / "data" / "her2st"
pytestmark = pytest.mark.skipif(not HER2ST.exists(), reason="the her2st sections are not here")


def test_selection_and_ceiling() -> None:
    from stpredict.io import read_her2st
    from stpredict.pp._normalize import normalize
    from stpredict.pp._select_genes import select_genes
    from stpredict.tl.judge._noise_ceiling import noise_ceiling

    adata = read_her2st(HER2ST, sections=["B1", "C1", "G2"])
    normalize(adata)
    select_genes(adata, "moran", train=(adata.obs["sample"] != "G2").to_numpy())
    genes = adata.var_names[adata.var["selected"]]
    assert 50 < len(genes) < 2000
    assert {"ERBB2", "IGKC"} & set(genes)
    noise_ceiling(adata, genes=genes, n_repeats=3)
    ceiling = adata.varm["noise_ceiling"].loc[genes]
    assert list(ceiling.columns) == ["B1", "C1", "G2"]
    assert ceiling.loc["IGKC"].min() > 0.5
    training = ceiling[["B1", "C1"]].mean(axis=1)
    spatial = adata.varm["moran_i"].loc[genes].median(axis=1)
    assert np.corrcoef(training, spatial)[0, 1] > 0.3
    assert 0.2 < training.mean() < 0.95
