"""What is worth a try on an object."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.models.base._advice import ADVICE


def section(**obsm: np.ndarray) -> ad.AnnData:
    obs = pd.DataFrame({"sample": np.repeat(["a", "b", "c", "d"], 5), "patient": np.repeat(["p", "q"], 10)})
    adata = ad.AnnData(np.ones((20, 3)), obs.set_index("s" + obs.index.astype(str)), obsm=obsm)
    return adata


def lacks(table: pd.DataFrame, model: str) -> str:
    return table.set_index("model").loc[model, "lacks"]


def test_every_model_has_a_line() -> None:
    assert set(stp.models.list_models().index) <= set(ADVICE)


def test_what_is_missing_is_named_with_the_call_that_makes_it() -> None:
    table = stp.models.suggest(section())
    assert "stp.pp.image_features(adata)" in lacks(table, "ridge")
    assert not table.set_index("model").loc["ridge", "ready"]
    table = stp.models.suggest(section(X_own=np.ones((20, 4))))
    assert table["model"].tolist()[:3] == ["mean", "color", "ridge"]
    assert lacks(table, "ridge") == ""
    assert "neighbor_features" in lacks(table, "triplex")
    assert "10 sections, of which there are 4" in lacks(table, "stnet")


def test_a_plot_of_cells_is_no_image_feature() -> None:
    assert "image_features" in lacks(stp.models.suggest(section(X_umap=np.ones((20, 2)))), "ridge")


def test_sections_slides_and_genes_have_their_own() -> None:
    spots = set(stp.models.suggest(section())["model"])
    slides = section()
    slides.obs["sample"] = slides.obs_names
    stp.pp.as_slides(slides)
    bags = stp.models.suggest(slides)
    assert {"sequoia", "he2rna", "hist2rna"} <= set(bags["model"])
    assert "50 patients, of whom there are 2" in lacks(bags, "sequoia")
    genes = stp.datasets.synthetic_genes(40, seed=0)
    assert {"gta", "seq2exp"} <= set(stp.models.suggest(genes)["model"])
    assert not spots & {"sequoia", "gta"}


def test_sections_must_be_named() -> None:
    with pytest.raises(KeyError, match=r"expected the sections in obs\['sample'\]"):
        stp.models.suggest(ad.AnnData(np.ones((3, 2))))
