"""Noise ceiling on the synthetic cohort, against what the known expectation of the counts really reaches.

python benchmarks/synthetic_ceiling.py

`r` is the mean correlation of the log-normalized expectation with the measurement, `ceiling` the pooled estimate; flat genes
have the same expectation everywhere, so that their correlation is that of depth alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

import stpredict as stp


def main() -> None:
    rows = []
    for counts_per_spot in (500, 10_000):
        for n_genes in (60, 200, 1000):
            for seed in range(3):
                adata = stp.datasets.synthetic_cohort(
                    2, 2, n_genes, seed, n_spots=200, counts_per_spot=counts_per_spot, microns_per_pixel=4.0
                )
                stp.pp.normalize(adata, method="log1p")
                expected = np.asarray(adata.layers["expected"])
                share = expected / expected.sum(axis=1, keepdims=True)
                adata.obsm["predicted"] = pd.DataFrame(np.log1p(share * 1e4), adata.obs_names, adata.var_names)
                scores = stp.tl.evaluate(adata, metrics=["pearson"], baselines=False, seed=seed)
                signal = scores["gene"].map(adata.var["signal"]).astype(bool)
                row: dict[str, object] = {"counts": counts_per_spot, "genes": n_genes, "seed": seed}
                for name, part in (("all", scores), ("signal", scores[signal]), ("flat", scores[~signal])):
                    table = stp.tl.summarize(part, n_boot=1).iloc[0]
                    row |= {f"r {name}": table["pearson"], f"ceiling {name}": table["ceiling"]}
                    if name == "all":
                        row["r/ceiling all"] = table["r_over_ceiling"]
                rows.append(row)
    table = pd.DataFrame(rows)
    print(table.groupby(["counts", "genes"]).mean().drop(columns="seed").round(3).to_string())
    difference = (table["ceiling all"] - table["r all"]).abs()
    print(f"\nlargest difference over all genes: {difference.max():.3f}; mean over settings {difference.mean():.3f}")


if __name__ == "__main__":
    main()
