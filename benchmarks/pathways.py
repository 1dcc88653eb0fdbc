"""Are Hallmark pathways where a prediction says? Measured against predicted, beside random gene sets, on a held-out patient.

    python benchmarks/pathways.py --data ../shared/data [--genes 2000] [--random 999] [--shuffles 10] [--out out/pathways.csv]

HER2-positive breast cancer: a ridge on color and texture, trained on four sections of patient C and tested on section B4 of
patient B, and the other way round (C2 is shown). The genes are those with the most counts in the training sections. Scores
are correlated over spots within the section; each pathway stands beside random sets of the same size and expression. The
line `shuffled` is the same with the predictions of the test section shuffled over its spots, several times (100 random sets).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

GENE_SETS = Path("genesets") / "h.all.v7.0.symbols.gmt"
DIRECTIONS = {"B4": ("C2", "C3", "C4", "C5"), "C2": ("B4",)}


def held_out(adata: AnnData, section: str, train: tuple[str, ...], n_genes: int) -> AnnData:
    """The test section with its prediction."""
    counts = adata[adata.obs["sample"].isin(train)].layers["counts"]
    total = np.asarray(counts.sum(axis=0)).ravel()
    part = adata[adata.obs["sample"].isin((*train, section)), np.argsort(-total, kind="stable")[:n_genes]].copy()
    stp.pp.normalize(part)
    model = stp.tl.fit(part, "ridge", part.obs["sample"].isin(train).to_numpy())
    test = part[part.obs["sample"] == section].copy()
    stp.tl.predict(test, model)
    return test


def shuffled(test: AnnData, seed: int) -> AnnData:
    """The predictions of a section at other spots of it."""
    other = test.copy()
    other.obsm["predicted"] = other.obsm["predicted"][np.random.default_rng(seed).permutation(other.n_obs)]
    return other


def summary(table: pd.DataFrame) -> str:
    """One line."""
    better = (table["q"] < 0.05).mean()
    return (
        f"{table['pathway'].nunique()} pathways, mean r {table['r'].mean():.3f}, random sets {table['null_mean'].mean():.3f}, mean p "
        f"{table['p'].mean():.2f}, {(table['p'] < 0.05).mean():.0%} with p < .05, {better:.0%} with q < .05; coherence measured "
        f"{table['coherence_measured'].mean():.3f}, predicted {table['coherence_predicted'].mean():.3f}, random sets predicted "
        f"{table['coherence_null'].mean():.3f}"
    )


def main() -> None:
    """Run and print."""
    warnings.filterwarnings("ignore", ".* observations have no counts")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--random", type=int, default=999)
    parser.add_argument("--shuffles", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    stp.settings.progress = False
    names = sorted({*DIRECTIONS, *(name for train in DIRECTIONS.values() for name in train)})
    adata = stp.io.read_her2st(options.data / "her2st", names)
    stp.pp.image_features(adata)
    tables = []
    for section, train in DIRECTIONS.items():
        test = held_out(adata, section, train, options.genes)
        found = stp.tl.pathway_agreement(test, options.data / GENE_SETS, n_random=options.random)
        null = pd.concat(
            stp.tl.pathway_agreement(shuffled(test, seed), options.data / GENE_SETS, n_random=100)
            for seed in range(options.shuffles)
        )
        print(f"{section}, trained on {', '.join(train)}, {found.attrs['n_genes']} genes, {test.n_obs} spots")
        print(f"- predicted: {summary(found)}")
        print(f"- shuffled: {summary(null)}")
        print("\n| pathway | genes | r | random sets (95 %) | p | q |\n|---|---|---|---|---|---|")
        for row in found.head(8).itertuples():
            name = row.pathway.removeprefix("HALLMARK_").replace("_", " ").lower()
            print(
                f"| {name} | {row.size} | {row.r:.3f} | {row.null_mean:.3f} ({row.null_high:.3f}) | {row.p:.3f} | {row.q:.3f} |"
            )
        print(flush=True)
        tables.append(found.assign(section=section))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        pd.concat(tables).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
