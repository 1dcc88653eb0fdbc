"""Which genes can be learned from the picture: does `tl.predictability` say it before training, and are its p-values true?

    python benchmarks/predictability.py [--parts settings null speed her2st her2st_null] [--data ../shared/data/her2st]

- `settings`: neighbors and components on simulated cohorts, where the truth is known. The defaults are checked here.
- `null`: the share of p-values below some levels where picture and expression have nothing to do with each other: features
  of a simulated cohort permuted within sections, features that are smooth random fields, and the same with sections of a
  patient that are copies; beside them what a null by permuted rows would say of the smooth fields.
- `speed`: 3,000 spots and 5,000 genes, beside a plain loop over genes with row permutations.
- `her2st`: rank correlation over genes with the residual r of a ridge that is trained on one patient and tested on the
  other, both directions. `of both patients` reads the sections of both, `of the training patient` those that the ridge is
  trained on, across sections or blocks: what would have been known before.
- `her2st_null`: the same counts and positions with features that were permuted within sections, or that are smooth random
  fields. Genes share their maps with each other, so that single draws scatter around the level.
"""

from __future__ import annotations

import argparse
import warnings
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest, spearmanr
from sklearn.neighbors import NearestNeighbors

import stpredict as stp
from stpredict.metrics._pearson_residuals import pearson_residuals

CONTEXT = "context"
SECTIONS = ["B4", "C2", "C3", "C4", "C5"]


def settings() -> None:
    """Power and order of the genes on cohorts with few counts, per number of neighbors and components."""
    rows = []
    for seed in (0, 1):
        adata = stp.datasets.synthetic_cohort(
            3, 1, 200, seed, n_spots=200, counts_per_spot=800, microns_per_pixel=2.0, stain_shift=0.2
        )
        stp.pp.image_features(adata, context=(1, 3), key_added=CONTEXT)
        truth = adata.copy()
        truth.layers["counts"] = adata.layers["morphology"]
        best = standardized(truth)
        known = stp.metrics.pearson(standardized(adata), best)  # what the picture determines
        signal = adata.var["signal"].to_numpy()
        for k, d in product((5, 10, 20, 40, 80), (5, 10, 20, 40)):
            table = stp.tl.predictability(adata, CONTEXT, n_neighbors=k, n_components=d).set_index("gene")
            table = table.loc[adata.var_names]
            rows.append(
                {
                    "k": k, "components": d, "mean r, genes with signal": table["pearson"][signal].mean(),
                    "found at q < .05": (table["q"][signal] < 0.05).mean(), "median z": table["z"][signal].median(),
                    "rank correlation with the truth": spearmanr(table["pearson"], known).statistic,
                }
            )  # fmt: skip
    print(pd.DataFrame(rows).groupby(["k", "components"]).mean().round(3).to_string())


def standardized(adata: AnnData) -> np.ndarray:
    """Pearson residuals of unit variance within each section."""
    result = np.empty(adata.shape, dtype=np.float32)
    for name in adata.obs["sample"].unique():
        rows = np.flatnonzero(adata.obs["sample"] == name)
        counts = adata.layers["counts"][rows]
        values = pearson_residuals(counts, np.asarray(counts.sum(axis=1)).ravel())
        result[rows] = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    return result


def smooth(rng: np.random.Generator, side: int, length: float, n: int) -> np.ndarray:
    """Smooth random fields (side * side, n) of unit variance."""
    edge = int(4 * length)
    field = gaussian_filter(rng.normal(size=(n, side + 2 * edge, side + 2 * edge)), (0, length, length))
    flat = field[:, edge : edge + side, edge : edge + side].reshape(n, -1).T
    return (flat - flat.mean(axis=0)) / flat.std(axis=0)


def unrelated(
    rng: np.random.Generator, *, n_patients: int, n_sections: int, copies: bool, permuted: bool, rate: float = 2.0,
    side: int = 20, length: float = 2.5, n_genes: int = 40,
) -> AnnData:  # fmt: skip
    """Counts of genes with smooth maps, and smooth features that have nothing to do with them."""
    counts, features, obs, xy = [], [], [], []
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    for patient, section in product(range(n_patients), range(n_sections)):
        if section == 0 or not copies:
            image, rates = smooth(rng, side, length, 6), rate * np.exp(0.5 * smooth(rng, side, length, n_genes))
        own = image[rng.permutation(len(image))] if permuted else image
        counts.append(rng.poisson(rng.gamma(6, 1 / 6, size=(side**2, 1)) * rates))
        features.append(own + 0.1 * rng.normal(size=own.shape))
        obs.append(pd.DataFrame({"sample": f"{patient}_{section}", "patient": f"P{patient}"}, index=range(side**2)))
        xy.append(grid * 200.0)
    table = pd.concat(obs, ignore_index=True)
    table.index = table.index.astype(str)
    adata = AnnData(sparse.csr_matrix(np.concatenate(counts)), obs=table)
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_fields"], adata.obsm["spatial"] = np.concatenate(features), np.concatenate(xy)
    return adata


def null(n_repeats: int = 40) -> None:
    cases = {
        "permuted, 2 patients": {"n_patients": 2, "n_sections": 1, "copies": False, "permuted": True},
        "permuted, 2 patients x 3 copies": {"n_patients": 2, "n_sections": 3, "copies": True, "permuted": True},
        "permuted, rare genes": {"n_patients": 2, "n_sections": 1, "copies": False, "permuted": True, "rate": 0.05},
        "smooth, 2 patients": {"n_patients": 2, "n_sections": 1, "copies": False, "permuted": False},
        "smooth, rare genes": {"n_patients": 2, "n_sections": 1, "copies": False, "permuted": False, "rate": 0.05},
        "smooth, 4 patients": {"n_patients": 4, "n_sections": 1, "copies": False, "permuted": False},
        "smooth, very smooth": {"n_patients": 2, "n_sections": 1, "copies": False, "permuted": False, "length": 5.0},
        "smooth, 2 patients x 3 copies": {"n_patients": 2, "n_sections": 3, "copies": True, "permuted": False},
        "smooth, 2 patients x 3 other": {"n_patients": 2, "n_sections": 3, "copies": False, "permuted": False},
    }
    rows = []
    for name, options in cases.items():
        rng = np.random.default_rng(0)
        found, rows_only = [], []
        for _ in range(n_repeats):
            adata = unrelated(rng, **options)
            table = stp.tl.predictability(adata, "fields")
            found.append(table[["z", "p"]])
            if not options["permuted"]:
                rows_only.append(row_permutations(adata, rng))
        found = pd.concat(found)
        p = found["p"].dropna()
        row = {"features": name, "sd of z": found["z"].std(), "n": len(p)}
        row |= {f"p < {level}": (p < level).mean() for level in (0.05, 0.01, 0.001)}
        row["KS"] = kstest(p, "uniform").pvalue
        if rows_only:
            row["p < 0.05, row permutations"] = (np.concatenate(rows_only) < 0.05).mean()
        rows.append(row)
    print(pd.DataFrame(rows).round(4).to_string(index=False))


def row_permutations(adata: AnnData, rng: np.random.Generator, n: int = 200) -> np.ndarray:
    """p-values (G,) of a null that permutes the rows of the features within sections."""
    values, patient = standardized(adata), adata.obs["patient"].to_numpy()
    links = nearest(adata.obsm["X_fields"], patient, 20)
    observed, above = (values * (links @ values)).sum(axis=0), np.zeros(values.shape[1])
    sample = adata.obs["sample"].to_numpy()
    for _ in range(n):
        order = np.arange(len(values))
        for name in np.unique(sample):
            order[sample == name] = rng.permutation(np.flatnonzero(sample == name))
        moved = values[order]
        above += (moved * (links @ moved)).sum(axis=0) >= observed
    return (1 + above) / (1 + n)


def nearest(points: np.ndarray, group: np.ndarray, k: int) -> sparse.csr_array:
    """Links to the nearest points of other groups, with scikit-learn."""
    rows, columns = [], []
    for name in np.unique(group):
        mine, others = np.flatnonzero(group == name), np.flatnonzero(group != name)
        found = NearestNeighbors(n_neighbors=k).fit(points[others]).kneighbors(points[mine], return_distance=False)
        rows.append(np.repeat(mine, k))
        columns.append(others[found.ravel()])
    at = (np.concatenate(rows), np.concatenate(columns))
    return sparse.csr_array((np.full(len(points) * k, 1 / k), at), shape=(len(points), len(points)))


def speed(n_permutations: int = 100, n_timed: int = 10) -> None:
    rng = np.random.default_rng(0)
    adata = unrelated(
        rng, n_patients=3, n_sections=2, copies=False, permuted=False, rate=0.5, side=23, n_genes=5000
    )  # fmt: skip
    start = perf_counter()
    stp.tl.predictability(adata, "fields")
    ours = perf_counter() - start

    start = perf_counter()
    values, sample = standardized(adata), adata.obs["sample"].to_numpy()
    links = nearest(adata.obsm["X_fields"], adata.obs["patient"].to_numpy(), 20)
    fixed = perf_counter() - start
    sections = [np.flatnonzero(sample == name) for name in np.unique(sample)]
    start = perf_counter()
    for gene in range(n_timed):
        column = values[:, gene]
        above, moved = column @ (links @ column), column.copy()
        for _ in range(n_permutations):
            for rows in sections:
                moved[rows] = rng.permutation(moved[rows])
            assert moved @ (links @ moved) < 2 * abs(above) + len(moved)
    loop = fixed + (perf_counter() - start) / n_timed * adata.n_vars
    print(f"{adata.n_obs} spots x {adata.n_vars} genes, {len(sections)} sections, one thread")
    print(
        f"stpredict {ours:.1f} s; loop over genes, {n_permutations} permutations each, {loop:.0f} s; ratio {loop / ours:.0f}"
    )


def read(data: Path) -> AnnData:
    """Sections with features, and the genes that are seen in 100 spots at least."""
    adata = stp.io.read_her2st(data, sections=SECTIONS)
    stp.pp.image_features(adata, context=(1, 3), key_added=CONTEXT)
    seen = (adata.layers["counts"] > 0).sum(axis=0)
    return adata[:, np.asarray(seen).ravel() >= 100].copy()


def her2st(data: Path) -> None:
    adata = read(data)
    start = perf_counter()
    both = stp.tl.predictability(adata, CONTEXT).set_index("gene")
    print(f"{adata.n_obs} spots x {adata.n_vars} genes in {perf_counter() - start:.1f} s; tested {both['p'].notna().sum()}, "
          f"at q < .05: {(both['q'] < 0.05).sum()}, at q < .2: {(both['q'] < 0.2).sum()}")  # fmt: skip
    print(both.head(20)[["pearson", "ceiling", "z", "p", "q"]].round(4).to_string())
    adata.layers["residuals"] = standardized(adata)
    held_out = directions(adata)
    rows = []
    for (trained, tested), r in held_out.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            part = adata[adata.obs["patient"] == trained].copy()
            inside = stp.tl.predictability(part, CONTEXT).set_index("gene")
        for name, scores in (("of both patients", both), ("of the training patient", inside)):
            known = scores["p"].dropna().index.intersection(r.dropna().index)
            row = {"ridge": f"{trained} -> {tested}", "predictability": name, "genes": len(known)}
            row["rank correlation, r"] = spearmanr(scores["pearson"][known], r[known]).statistic
            row["rank correlation, z"] = spearmanr(scores["z"][known], r[known]).statistic
            row["mean r, all"] = r[known].mean()
            row["mean r, 50 highest z"] = r[scores.loc[known, "z"].nlargest(50).index].mean()
            rows.append(row)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    print(f"rank correlation of the two directions with each other: {agreement(held_out):.3f}", end="; ")
    rng = np.random.default_rng(0)
    for name in SECTIONS:
        here = np.flatnonzero(adata.obs["sample"] == name)
        adata.obsm[CONTEXT][here] = adata.obsm[CONTEXT][rng.permutation(here)]
    print(f"with features permuted within sections: {agreement(directions(adata)):.3f}")


def directions(adata: AnnData) -> dict[tuple[str, str], pd.Series]:
    """Residual r (G,) of a ridge that is trained on one patient, in the other; both ways."""
    found = {}
    patient = adata.obs["patient"].astype(str).to_numpy()
    for trained, tested in (("C", "B"), ("B", "C")):
        part, rest = adata[patient == trained].copy(), adata[patient == tested].copy()
        target = stp.targets.Expression(layer="residuals", panel=list(adata.var_names))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # features that were permuted no longer match their record
            model = stp.tl.fit(
                part, "ridge", features={"slot": CONTEXT, "scaling": "section"}, target=target, baselines=False
            )  # fmt: skip
            stp.tl.predict(rest, model)
        table = stp.tl.evaluate(rest, layer="residuals", metrics=["pearson"], ceiling=False, baselines=False)
        found[trained, tested] = table.groupby("gene")["pearson"].mean()
    return found


def agreement(held_out: dict[tuple[str, str], pd.Series]) -> float:
    one, other = held_out.values()
    shared = one.dropna().index.intersection(other.dropna().index)
    return float(spearmanr(one[shared], other[shared]).statistic)


def her2st_null(data: Path, n_repeats: int = 5) -> None:
    """Real counts and positions, with features that have nothing to do with them."""
    adata = read(data)
    rng = np.random.default_rng(0)
    sample, xy = adata.obs["sample"].to_numpy(), np.asarray(adata.obsm["spatial"])
    own = adata.obsm[CONTEXT]
    rows = []
    for kind in ("permuted", "smooth over 400 µm", "smooth over 800 µm"):
        found = []
        for _ in range(n_repeats):
            fields = np.empty((adata.n_obs, own.shape[1] if kind == "permuted" else 6), dtype=np.float32)
            for name in np.unique(sample):
                here = np.flatnonzero(sample == name)
                if kind == "permuted":
                    fields[here] = own[rng.permutation(here)]
                    continue
                length = float(kind.split()[2]) / 0.686  # µm per pixel
                distance = np.linalg.norm(xy[here, None] - xy[None, here], axis=2)
                fields[here] = np.exp(-((distance / length) ** 2)) @ rng.normal(size=(len(here), 6))
            adata.obsm["X_fields"] = fields
            found.append(stp.tl.predictability(adata, "fields")["p"].dropna())
        p = pd.concat(found)
        row = {"features": kind, "p-values": len(p)}
        row |= {f"p < {level}": (p < level).mean() for level in (0.05, 0.01, 0.001)}
        row["p < 0.05 in single draws"] = " ".join(f"{(q < 0.05).mean():.3f}" for q in found)
        rows.append(row)
    print(pd.DataFrame(rows).round(4).to_string(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["settings", "null", "speed", "her2st", "her2st_null"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    options = parser.parse_args()
    stp.settings.progress = False
    calls = {"settings": settings, "null": null, "speed": speed}
    calls |= {"her2st": lambda: her2st(options.data), "her2st_null": lambda: her2st_null(options.data)}
    for part in options.parts:
        print(f"\n{part}")
        calls[part]()


if __name__ == "__main__":
    main()
