"""Which subtype is called where, measured and predicted, and what random modules of the same sizes and expression give.

    python benchmarks/subtypes.py --data ../shared/data [--random 20] [--figure out/subtypes.png]

Glioblastoma, section 243_T: five programme scores that were measured, against those that a ridge predicts from the picture,
blocks held out, percentiles within each block. There are no counts, so that calls are compared with measured calls turned about the middle of the section.

HER2-positive breast cancer, section B4, from a ridge trained on four sections of patient C: the meta-modules of
*glioblastoma*, which this tissue should not have but for the cell cycle and response to hypoxia. Calls are made all the same:
every module has its share. Which of them is a module here is said by its coherence, and whether the prediction has it in the
right place by its agreement beside that of random modules.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from gbm_scores import read_gbm
from pathways import held_out
from scipy.spatial import KDTree

import stpredict as stp

NEFTEL = Path("genesets") / "neftel2019_metamodules.gmt"
BREAST = ("B4", ("C2", "C3", "C4", "C5"))


def agreement(one: pd.Series, other: pd.Series) -> tuple[float, float]:
    """Share of the spots with the same call, and Cohen's kappa."""
    from sklearn.metrics import cohen_kappa_score

    both = (one.notna() & other.notna()).to_numpy()
    a, b = one[both].astype(str), other[both].astype(str)
    return float((a.to_numpy() == b.to_numpy()).mean()), float(cohen_kappa_score(a, b))


def turned(calls: pd.Series, xy: np.ndarray, angle: float) -> pd.Series:
    """Calls of the nearest spot after turning the map about its middle."""
    middle = (xy.max(axis=0) + xy.min(axis=0)) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    nearest = KDTree(xy).query((xy - middle) @ turn.T + middle)[1]
    return pd.Series(calls.to_numpy()[nearest], calls.index)


def show(control: pd.DataFrame) -> None:
    """Print a control as a table."""
    print(control.round(3).to_string(index=False))


def glioblastoma(data: Path) -> AnnData:
    """The section with measured and predicted calls."""
    adata = read_gbm(data / "gbm_visium")
    stp.pp.image_features(adata)
    stp.tl.cross_validate(
        adata, ["ridge"], target=stp.targets.Values(obsm="scores"), splitter="blocks", baselines=False, ceiling=False
    )
    # Each block was predicted by a model of its own: percentiles are within blocks, on both sides.
    stp.tl.subtypes(adata, scores="scores", sample_key="predicted_ridge_fold", key_added="measured_subtype")
    stp.tl.subtypes(adata, scores="predicted_ridge", key_added="subtype")
    share, kappa = agreement(adata.obs["measured_subtype"], adata.obs["subtype"])
    xy = adata.obsm["spatial"]
    null = [
        agreement(turned(adata.obs["measured_subtype"], xy, a), adata.obs["subtype"]) for a in np.linspace(0.3, 5.9, 20)
    ]
    print(f"glioblastoma, 243_T, {adata.n_obs} spots, five programmes, ridge, blocks held out")
    print(f"- same call {share:.3f}, kappa {kappa:.3f}")
    print(
        f"- measured calls turned: same call {np.mean(null, axis=0)[0]:.3f}, kappa {np.mean(null, axis=0)[1]:.3f} "
        f"(highest of {len(null)}: {np.max(null, axis=0)[1]:.3f})\n"
    )
    for name in ("measured_subtype", "subtype"):
        print(f"calls, {'predicted' if name == 'subtype' else 'measured'}")
        show(adata.uns[f"{name}_control"])
        print()
    return adata


def random_modules(adata: AnnData, sets: dict[str, list[str]], seed: int) -> dict[str, list[str]]:
    """Every gene replaced by one of as many counts."""
    level = np.asarray(adata.layers["counts"].sum(axis=0)).ravel()
    rng = np.random.default_rng(seed)
    order = np.argsort(level, kind="stable")
    place = np.empty_like(order)
    for part in np.array_split(order, 25):
        place[part] = rng.permutation(part)
    other = dict(zip(adata.var_names, adata.var_names[place], strict=True))
    return {term: [other[gene] for gene in genes if gene in other] for term, genes in sets.items()}


def breast(data: Path, n_random: int) -> None:
    """Modules of another tissue."""
    names = [BREAST[0], *BREAST[1]]
    adata = stp.io.read_her2st(data / "her2st", names)
    stp.pp.image_features(adata)
    test = held_out(adata, *BREAST, 4000)
    sets = {}
    for line in (data / NEFTEL).read_text().splitlines():
        term, _, *genes = line.split("\t")
        sets[term] = [gene for gene in genes if gene]
    calls = []
    for use, name in (("measured", "measured_subtype"), ("predicted", "subtype")):
        stp.tl.subtypes(test, sets, use=use, aliases="ensembl", n_random=99, key_added=name)
        calls.append(test.obs[name])
        print(f"breast cancer, {BREAST[0]}, {test.n_obs} spots, modules of glioblastoma, {use}")
        show(test.uns[f"{name}_control"])
        print()
    record = test.uns["stpredict"]["subtype"]
    print(f"found under another name: {', '.join(record['renamed']) or 'none'}")
    print(f"not replaced: {'; '.join(record['not_renamed']) or 'none'}")
    share, kappa = agreement(*calls)
    null = []
    for seed in range(n_random):
        random = random_modules(test, sets, seed)
        for use, name in (("measured", "a"), ("predicted", "b")):
            stp.tl.subtypes(test, random, use=use, n_random=0, key_added=name)
        null.append(agreement(test.obs["a"], test.obs["b"]))
    null = np.array(null)
    p = (1 + (null[:, 1] >= kappa).sum()) / (1 + len(null))
    print(f"- measured against predicted: same call {share:.3f}, kappa {kappa:.3f}")
    print(
        f"- {n_random} random modules: same call {null[:, 0].mean():.3f}, kappa {null[:, 1].mean():.3f} (highest "
        f"{null[:, 1].max():.3f}), p {p:.2f}"
    )


def main() -> None:
    """Run and print."""
    warnings.filterwarnings("ignore", ".* observations have no counts|.*much coarser")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--random", type=int, default=20)
    parser.add_argument("--figure", type=Path, help="where to draw the calls of the glioblastoma")
    options = parser.parse_args()
    stp.settings.progress = False
    pd.set_option("display.width", 200)
    adata = glioblastoma(options.data)
    if options.figure is not None:
        axes = stp.pl.domains(adata, key="subtype", label_key="measured_subtype")
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        axes[0].figure.savefig(options.figure, dpi=120)
    breast(options.data, options.random)


if __name__ == "__main__":
    main()
