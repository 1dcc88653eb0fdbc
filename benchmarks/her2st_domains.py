"""Find the pathologist's regions in measured expression: what domains of a perfect prediction would reach.

    python benchmarks/her2st_domains.py --data ../shared/data/her2st [--seeds 10] [--out out/her2st_domains.csv]

The seven sections of the HER2-positive breast cohort with labels. Each is clustered on its own (principal components,
15 nearest neighbors, Leiden) into as many domains as it has labels; the resolution is searched for that number, and the
agreement is looked at once. Three sets of genes: the 785 of the HGGEP line of work (normalized by their own total, as
published), the 2000 most variable of the section, and all that were detected. Spots that are `undetermined` are never
compared; `labeled only` leaves them out before clustering as well, as published.

`ARI` and `NMI` are means over seeds, with their standard deviation. Beside them, ARI without expression: with shuffled
labels, with the domains turned over the section, of k-means on the positions, and of k-means on the depth of the spot (the
logarithm of its total counts).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

SECTIONS = ["B1", "C1", "D1", "E1", "F1", "G2", "H1"]
PANEL, VARIABLE, ALL = "785 genes", "2000 variable", "all genes"
N_VARIABLE = 2000


def read(data: Path, sections: list[str]) -> tuple[AnnData, list[str]]:
    """Labeled sections with counts, and the published panel."""
    adata = stp.io.read_her2st(data, sections)
    panel = (data.parent / "published" / "her2st_785_genes.txt").read_text().split()
    return adata, [gene for gene in panel if gene in adata.var_names]


def prepared(section: AnnData, kind: str, panel: list[str]) -> tuple[AnnData, list[str]]:
    """A section with normalized expression, and the genes to cluster."""
    import scanpy as sc

    section = section.copy()
    if kind == PANEL:
        some = np.asarray(section.layers["counts"][:, section.var_names.get_indexer(panel)].sum(axis=1)).ravel() > 0
        section = section[some].copy()
        stp.pp.normalize(section, method="log1p", size_factors="panel", panel=panel)
        return section, panel
    stp.pp.normalize(section, method="log1p")
    genes = section.var_names[np.asarray((section.layers["counts"] > 0).sum(axis=0)).ravel() > 0]
    section = section[:, genes].copy()
    if kind == VARIABLE:
        sc.pp.highly_variable_genes(section, n_top_genes=N_VARIABLE)
        genes = section.var_names[section.var["highly_variable"]]
    return section, list(genes)


def ari_of_depth(section: AnnData, labeled_only: bool, seeds: int) -> float:
    """Mean ARI of k-means on the logarithm of the total counts."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score

    labeled = section.obs["label"].notna() & (section.obs["label"].astype(str) != "undetermined")
    used = labeled.to_numpy() if labeled_only else np.ones(section.n_obs, dtype=bool)
    depth = np.log1p(np.asarray(section.layers["counts"].sum(axis=1)).reshape(-1, 1)[used])
    known = section.obs["label"].astype(str)[labeled]
    scores = []
    for seed in range(seeds):
        found = KMeans(known.nunique(), n_init=1, random_state=seed).fit_predict(depth)
        scores.append(adjusted_rand_score(known, found[labeled[used]]))
    return float(np.mean(scores))


def benchmark(data: Path, sections: list[str], seeds: int) -> pd.DataFrame:
    """One row per set of genes, protocol and section."""
    adata, panel = read(data, sections)
    tables = []
    for kind in (PANEL, VARIABLE, ALL):
        for name in sections:
            section, genes = prepared(adata[adata.obs["sample"] == name], kind, panel)
            for labeled_only in (False, True):
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message="no resolution gave")  # n_found says it
                    table = stp.tl.domain_agreement(
                        section, "label", use="measured", genes=genes, labeled_only=labeled_only, n_seeds=seeds,
                        progress=False,
                    )  # fmt: skip
                table.insert(0, "labeled_only", labeled_only)
                table.insert(0, "genes", kind)
                table["ari_depth"] = ari_of_depth(section, labeled_only, seeds)
                tables.append(table)
                print(f"{kind}, {name}, {'labeled only' if labeled_only else 'all spots'}", flush=True)
    return pd.concat(tables, ignore_index=True)


def show(table: pd.DataFrame) -> str:
    """Table as Markdown, with the mean over sections."""
    head = (
        "| genes | spots | section | regions (found) | compared | ARI | NMI | shuffled | turned | positions | depth |"
    )
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for (kind, only), part in table.groupby(["genes", "labeled_only"], sort=False):
        spots = "labeled only" if only else "all"
        lines += [
            f"| {kind} | {spots} | {row.sample} | {row.n_domains} ({row.n_found:.1f}) | {row.n_labeled} of {row.n_obs} | "
            f"{row.ari:.2f} ± {row.ari_sd:.2f} | {row.nmi:.2f} ± {row.nmi_sd:.2f} | {row.ari_shuffled:.2f} | "
            f"{row.ari_rotated:.2f} | {row.ari_positions:.2f} | {row.ari_depth:.2f} |"
            for row in part.itertuples()
        ]
        mean = part[["ari", "nmi", "ari_shuffled", "ari_rotated", "ari_positions", "ari_depth"]].mean()
        values = " | ".join(f"**{value:.2f}**" for value in mean)
        lines.append(f"| **{kind}** | {spots} | **mean** | | {part['n_labeled'].sum()} | {values} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sections", nargs="+", default=SECTIONS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = benchmark(options.data, options.sections, options.seeds)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False)
    print(show(table))


if __name__ == "__main__":
    main()
