"""Genes that a network never saw, on real sections with patients apart: does what is known of genes say more than their mean map?

    python benchmarks/unseen_genes.py --data ../shared/data/her2st [--models comtip dkan] [--encoder mobilenet_v2]
        [--epochs 30] [--quick]

Sections B4 (one patient) and C2 (another) of the HER2-positive breast cohort, both directions. Networks are trained on seven of
eight genes of a published list of 785, and predict the eighth, whatever it is, by its memberships in gene sets. Targets are
Pearson residuals, features are standardized within each section. Sizes and epochs are small, and were not chosen here.

Scores are per gene over the spots of a section, then their mean: the correlation with the residuals, and the deviance explained.
Beside each network stand a constant, the mean map of the training genes, the map of the nearest training gene in the table, the
same network asked with the rows of other genes, and a ridge that was trained on the very genes.

The last lines are of `comtip`: recall of the partner of each spot in pools of 100 and how often a picture fits its expression
better than with exchanged values, on the patient that was not seen; and the memory above the start that sentences of 20,000
genes and 64 spots take, by the chunk, each in a process of its own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from branches import COMTIP, LINES, read, scored
from her2st import resident

import stpredict as stp

SECTIONS = ("B4", "C2")
METRICS = ("pearson_residual", "deviance_explained")
CHUNKS = (2**12, 2**14)
N_GENES, N_SPOTS, DIM = 20_000, 64, 64


def scores_of(adata, seen: list[str], unseen: list[str], model: str, features: dict, training: dict) -> pd.DataFrame:
    """Scores of a network and of what stands beside it in both directions, and how well it aligns."""
    tables = []
    options = {"comtip": COMTIP, "dkan": LINES["dkan"]["hyperparameters"]}[model]
    for fold in stp.cohorts.leave_one_patient_out(adata):
        test = adata[fold.test].copy()
        train = np.isin(adata.obs_names, adata.obs_names[fold.train])
        common = {"features": features, "baselines": False}
        fitted = stp.tl.fit(adata, model, train, target=seen, hyperparameters=options, training=training, **common)
        stp.tl.predict(test, fitted, genes=unseen)
        ridge = stp.tl.fit(adata, "ridge", train, target=unseen, **common)
        stp.tl.predict(test, ridge, key_added="ridge", baselines=False)
        table = stp.tl.evaluate(test, ["predicted", "ridge"], metrics=METRICS, ceiling=False)
        tables.append(table.assign(direction=f"to {fold.name}"))
        if model == "comtip":
            stp.tl.embed(test, fitted)
            recall = stp.tl.recall_at_k(test, k=10, pool_size=100, n_boot=1)
            print(
                f"comtip, to {fold.name}: recall@10 of 100 {recall['recall@10'].round(3).tolist()}, by chance .1; ",
                end="",
            )
            print(f"exchanged values told with AUC {told(fitted, test):.3f}")
    return pd.concat(tables)


def told(fitted, test) -> float:
    """How often pictures fit their expression better than with exchanged values."""
    import torch

    network = fitted.network.eval()
    image = torch.from_numpy(test.obsm["aligned_image"])
    values = torch.from_numpy(np.asarray(test[:, fitted.panel].X, dtype=np.float32))
    torch.manual_seed(0)
    with torch.no_grad():
        return float(torch.stack([network.tells_swaps(image, values).mean() for _ in range(10)]).mean())


def memory(chunk: int) -> None:
    """Print the memory in MB that sentences of many genes take above the start; for a fresh process."""
    import torch

    from stpredict.models.nn._gene_sentences import GeneSentences

    torch.set_num_threads(1)
    encoder = GeneSentences(64, DIM, 32, n_latents=16, depth=2, chunk=chunk)
    texts, values = torch.randn(N_GENES, 64), torch.randn(N_SPOTS, N_GENES)
    with torch.no_grad():
        encoder(texts[:64], values[:, :64])
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident("VmRSS")
        encoder(texts, values)
    print(f"{1000 * (resident('VmHWM') - before):.0f}")


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--models", nargs="*", choices=("comtip", "dkan"), default=["comtip"])
    parser.add_argument("--encoder", default="mobilenet_v2")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="two epochs on a quarter of the spots")
    parser.add_argument("--memory", type=int, metavar="CHUNK", help="only print what sentences of many genes take")
    options = parser.parse_args()
    if options.memory:
        memory(options.memory)
        return
    stp.settings.progress = False
    if options.models:
        adata, panel = read(options.data, options.encoder, set(options.models), quick=options.quick)
        adata = adata[adata.obs["sample"].isin(SECTIONS)].copy()
        stp.pp.normalize(adata)
        unseen = scored(panel)
        seen = [gene for gene in panel if gene not in set(unseen)]
        training = {"max_epochs": 2 if options.quick else options.epochs, "patience": 8}
        features = {"slot": options.encoder, "scaling": "section"}
        found = pd.concat(scores_of(adata, seen, unseen, model, features, training) for model in options.models)
        table = found.groupby(["direction", "model"], sort=False)[list(METRICS)].mean()
        table["undefined"] = found["pearson_residual"].isna().groupby([found["direction"], found["model"]]).sum()
        print(table.round(3).to_string())
    for chunk in CHUNKS:
        command = [sys.executable, __file__, "--memory", str(chunk)]
        used = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(f"{N_GENES} genes x {N_SPOTS} spots, width {DIM}, chunk {chunk}: {used} MB above the start")


if __name__ == "__main__":
    main()
