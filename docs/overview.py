"""Draw the picture at the top of the README: python docs/overview.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

import stpredict as stp

mpl.use("Agg")
adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_genes=120, n_spots=220)
stp.pp.image_features(adata)
stp.pp.normalize(adata)
model = stp.tl.fit(adata, "ridge", adata.obs["patient"] != "P3")
stp.tl.predict(adata, model)
axes = stp.pl.genes(adata, ["TUM001", "STR001"], sample="P3_S1")
axes.flat[0].figure.savefig(Path(__file__).parent / "_static" / "overview.png", dpi=100, bbox_inches="tight")
