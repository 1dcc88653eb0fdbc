"""Signatures of survival on two real cohorts: learned on one, judged on the other, beside published ones and permuted outcomes.

    python benchmarks/signatures.py --data ../shared/data [--permutations 100] [--out out/signatures.csv]

NKI (Agilent) and VDX (Affymetrix), 150 breast cancer patients each, distant metastasis as the event; probes are joined to
symbols by the annotation, several probes of one gene averaged. A LASSO-Cox signature is learned on NKI (candidates are all
genes of both platforms, the penalty by 5-fold cross-validation over patients) and read on VDX, genes standardized within
the cohort since the platforms differ, groups split at the median risk of NKI. The published signatures are read on both
cohorts, split at their median on NKI; what is not on the arrays is missing and counted.

The table has Harrell's C with its 95 % bootstrap interval, the hazard ratio per standard deviation, alone and beside
receptor status, size, grade and age, and the log-rank p. NKI rows of the fitted signature are those it was learned on
(`leaky`); published signatures were derived from other patients, or, as the 70 genes, partly from these.

At last the whole of it with outcomes permuted over the patients of each cohort, selection included.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

COHORTS = {"NKI": "nkis", "VDX": "vdxs"}
CLINICAL = ["er", "grade", "size", "age"]
ROR_S = {"Basal": 0.05, "Her2": 0.12, "LumA": -0.34, "LumB": 0.23}
DAYS_PER_YEAR = 365.25


def read_cohort(folder: Path, name: str) -> AnnData:
    """Patients × symbols of a cohort, with follow-up in years."""
    stem = COHORTS[name]
    values = pd.read_csv(folder / f"{stem}_expr.csv.gz", index_col=0)
    symbols = pd.read_csv(folder / f"{stem}_annot.csv", index_col=0)["HUGO.gene.symbol"].reindex(values.columns)
    values = values.T.groupby(symbols.to_numpy()).mean().T  # probes without a symbol are left out
    clinical = pd.read_csv(folder / f"{stem}_clinical.csv", index_col=0).reindex(values.index)
    obs = pd.DataFrame({"patient": values.index, "cohort": name}, index=values.index)
    obs["time"], obs["event"] = clinical["t.dmfs"] / DAYS_PER_YEAR, clinical["e.dmfs"]
    obs["er"] = clinical["er"].map({0: "negative", 1: "positive"})
    obs[["grade", "size", "age"]] = clinical[["grade", "size", "age"]].astype(float)
    adata = AnnData(values, obs=obs)
    return adata[(adata.obs["time"] > 0) & adata.obs["event"].notna()].copy()


def published(folder: Path) -> dict[str, pd.Series]:
    """Coefficients of published signatures by symbol; several probes of one gene are averaged."""

    def table(name: str) -> pd.DataFrame:
        return pd.read_csv(folder / f"sig.{name}.csv", index_col=0)

    def series(names: pd.Series, values: pd.Series) -> pd.Series:
        return pd.Series(np.asarray(values, dtype=float), names.to_numpy()).groupby(level=0).mean().dropna()

    oncotype, endo, seventy, ggi, gene76 = (table(n) for n in ("oncotypedx", "endoPredict", "gene70", "ggi", "gene76"))
    return {
        "OncotypeDX": series(oncotype["symbol"], oncotype["weight"]),
        "EndoPredict": series(endo["symbol"], endo["weight"]),
        # Correlated with the profile of good prognosis: less of it is more risk.
        "70 genes": series(seventy["HUGO.gene.symbol"], -seventy["average.good.prognosis.profile"]),
        "76 genes": series(gene76["HUGO.gene.symbol"], gene76["std.cox.coefficient"]),
        "GGI": series(ggi["HUGO.gene.symbol"], ggi["grade"].map({1: -1.0, 3: 1.0})),
    }


def judge(adata: AnnData, label: str, n_used: str, risk: str = "risk") -> dict[str, object]:
    """One row of the table."""
    adata.obs["group"] = adata.obs.get(f"{risk}_group", pd.Series(dtype=object))
    row = stp.tl.survival(adata, risk, group="group", covariates=CLINICAL).iloc[0].to_dict()
    return {"signature": label, "genes": n_used, "cohort": adata.obs["cohort"].iloc[0]} | row


def scored(cohorts: dict[str, AnnData], label: str, weights: pd.Series) -> list[dict[str, object]]:
    """A published signature on both cohorts, cut at its median on NKI."""
    rows, cutoff = [], None
    for adata in cohorts.values():
        there = int(weights.index.isin(adata.var_names).sum())
        options = {"scale": "cohort", "min_fraction": 0.05}
        stp.tl.risk_score(adata, weights.to_dict(), **options)
        if cutoff is None:
            cutoff = float(adata.obs["risk"].median())
        stp.tl.risk_score(adata, weights.to_dict(), cutoff=cutoff, **options)
        rows.append(judge(adata, label, f"{there} of {len(weights)}"))
    return rows


def subtypes(cohorts: dict[str, AnnData], centroids: pd.DataFrame) -> list[dict[str, object]]:
    """PAM50 by correlation with its centroids, and the risk of relapse by subtype, cut at its median on NKI."""
    rows, cutoff = [], None
    for adata in cohorts.values():
        stp.tl.nearest_centroid(adata, centroids, weights=ROR_S, min_fraction=0.05, key_added="pam50")
        risk = adata.obs["pam50_risk"]
        cutoff = float(risk.median()) if cutoff is None else cutoff
        adata.obs["pam50_risk_group"] = np.where(risk > cutoff, "high", "low")
        used = len(adata.uns["stpredict"]["pam50"]["used"])
        rows.append(judge(adata, "PAM50, ROR-S", f"{used} of {len(centroids)}", "pam50_risk"))
    return rows


def learn_and_judge(
    train: AnnData, test: AnnData, choose: str = "min", seed: int = 0
) -> tuple[stp.tl.Signature, pd.Series]:
    """Learn on one cohort, judge on the other."""
    shared = [gene for gene in train.var_names if gene in set(test.var_names)]
    found = stp.tl.signature(train, shared, layer="log2", choose=choose, seed=seed)
    stp.tl.risk_score(test, found, layer="log2", scale="cohort")
    return found, stp.tl.survival(test, covariates=CLINICAL).iloc[0]


def permuted(cohorts: dict[str, AnnData], n: int) -> pd.DataFrame:
    """The same with outcomes permuted over the patients of either cohort."""
    rows = []
    for seed in range(n):
        rng, parts = np.random.default_rng(1000 + seed), []
        for adata in cohorts.values():
            part = adata.copy()
            part.obs[["time", "event"]] = part.obs[["time", "event"]].to_numpy()[rng.permutation(part.n_obs)]
            parts.append(part)
        found, row = learn_and_judge(*parts, seed=seed)
        rows.append({"n_genes": len(found.genes), "c_index": row["c_index"], "logrank_p": row["logrank_p"]})
    return pd.DataFrame(rows)


def show(table: pd.DataFrame) -> str:
    """Table as Markdown."""

    def p(value: float) -> str:
        return "–" if np.isnan(value) else f"{value:.2g}" if value >= 1e-4 else "< 0.0001"

    lines = [
        "| signature | genes | cohort | patients (events) | C-index | HR per SD | HR beside clinical | C of clinical (n) | log-rank p |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.itertuples():
        cohort = f"{row.cohort} (leaky)" if row.leaky is True else row.cohort
        lines.append(
            f"| {row.signature} | {row.genes} | {cohort} | {row.n_patients} ({row.n_events}) | "
            f"{row.c_index:.3f} ({row.c_low:.2f}–{row.c_high:.2f}) | {row.hazard_ratio:.2f} ({row.hr_low:.2f}–{row.hr_high:.2f}) | "
            f"{row.hr_adjusted:.2f} ({row.hr_adjusted_low:.2f}–{row.hr_adjusted_high:.2f}) | {row.c_index_covariates:.2f} ({row.n_complete}) | "
            f"{p(row.logrank_p)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    from scipy.stats import kstest

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--permutations", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*of the (signature|genes of the centroids) (is|are) used")  # the table says it
    warnings.filterwarnings("ignore", "no gene was taken")
    warnings.filterwarnings("ignore", ".*candidates are left out")
    warnings.filterwarnings("ignore", "all .* risks are")
    cohorts = {name: read_cohort(options.data / "bulk", name) for name in COHORTS}
    for adata in cohorts.values():
        adata.layers["log2"] = adata.X
    rows = []
    for choose in ("min", "1se"):
        found, _ = learn_and_judge(*cohorts.values(), choose=choose)
        label = f"LASSO-Cox, λ.{choose}"
        facts = found.facts
        print(
            f"{label}: {found}, λ.min {facts['penalty_min']:.4f}, λ.1se {facts['penalty_1se']:.4f}, {facts['n_candidates']} candidates"
        )
        for name, adata in cohorts.items():
            stp.tl.risk_score(adata, found, layer="log2", scale="training" if name == "NKI" else "cohort")
            if len(found.genes):
                rows.append(judge(adata, label, str(len(found.genes))))
    for label, weights in published(options.data / "signatures").items():
        rows += scored(cohorts, label, weights)
    rows += subtypes(cohorts, pd.read_csv(options.data / "signatures" / "pam50_centroids.csv", index_col=0))
    table = pd.DataFrame(rows)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(options.out, index=False)
    print(show(table))
    null = permuted(cohorts, options.permutations)
    tested = null["logrank_p"].dropna()
    print(
        f"permuted outcomes, {len(null)} runs: C-index {null['c_index'].mean():.3f} (SD {null['c_index'].std():.3f}; the first 20 "
        f"{null['c_index'][:20].mean():.3f}); {int((null['n_genes'] == 0).sum())} runs took no gene, with a C-index of .5; log-rank p "
        f"of the {len(tested)} with two groups: {(tested < 0.05).mean():.0%} below .05, uniform by Kolmogorov–Smirnov "
        f"p = {kstest(tested, 'uniform').pvalue:.2f}"
    )


if __name__ == "__main__":
    main()
