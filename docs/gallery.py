"""Draw the gallery: one short page per plot, with the code that draws it. `python docs/gallery.py FOLDER` writes them."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MPLBACKEND", "Agg")

#: What all pages start from.
START = """
import stpredict as stp

adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=2, n_genes=60, n_spots=150)
stp.pp.image_features(adata)
stp.pp.normalize(adata)
scores = stp.tl.cross_validate(adata, ["ridge", "mlp"])
"""


@dataclass(frozen=True)
class Entry:
    """A plot: what the page says above the code, and the code."""

    says: str
    code: str


GALLERY = {
    "genes": Entry(
        "Measured and predicted expression of genes beside the picture, and where they differ.",
        'stp.pl.genes(adata, ["TUM001", "STR001"], key="predicted_ridge", sample="P3_S1")',
    ),
    "explore": Entry(
        "One page to look around in: any gene or column over the picture, in two linked views.",
        'explorer = stp.pl.explore(adata, key="predicted_ridge", title="Example")',
    ),
    "scores": Entry(
        "Scores of genes for each model, beside the baselines and the noise ceiling.",
        "stp.pl.scores(scores)",
    ),
    "ceiling": Entry(
        "What a model reaches of what the counting noise allows, gene by gene.",
        'stp.pl.ceiling(scores, model="ridge")',
    ),
    "rank_genes": Entry(
        "The best genes, ranked on patients other than the one that is shown.",
        'stp.pl.rank_genes(scores, shown="P3", model="ridge")',
    ),
    "top_genes": Entry(
        "Maps of the best genes, ranked on patients other than the one that is shown.",
        'stp.pl.top_genes(adata, scores, 2, sample="P3_S1", model="ridge")',
    ),
    "compare_models": Entry(
        "Differences between models, paired over patients.",
        'stp.pl.compare_models(stp.tl.compare_models(scores, reference="ridge"))',
    ),
    "learning_curve": Entry(
        "What more patients would buy.",
        "curve = stp.tl.learning_curve(adata, fractions=(0.5, 1.0), n_repeats=2)\nstp.pl.learning_curve(curve)",
    ),
    "predictability": Entry(
        "Which genes the picture tells about, before any training.",
        "stp.pl.predictability(stp.tl.predictability(adata))",
    ),
    "spatially_variable": Entry(
        "Moran's I of the genes in each section.",
        "stp.pp.spatially_variable(adata)\nstp.pl.spatially_variable(adata, n_genes=15)",
    ),
    "features": Entry(
        "Image features in two dimensions: do sections of different patients differ by their stain?",
        'stp.pl.features(adata, color="patient")',
    ),
    "history": Entry(
        "Training and validation loss of a network.",
        'network = stp.tl.fit(adata, "mlp")\nstp.pl.history(network)',
    ),
    "uncertainty": Entry(
        "A prediction, the width of its interval, and whether the interval held.",
        'train = adata.obs["patient"] == "P1"\n'
        'stp.tl.predict(adata, stp.tl.fit(adata, "ridge", train))\n'
        'stp.tl.conformal(adata, calibration=adata.obs["patient"] == "P2")\n'
        'stp.pl.uncertainty(adata, ["TUM001"], sample="P3_S1")',
    ),
    "domains": Entry(
        "Domains of the predicted expression, beside a pathologist's labels.",
        'stp.tl.domains(adata, "predicted_ridge", n_domains=3)\n'
        'stp.pl.domains(adata, label_key="label", sample="P3_S1")',
    ),
    "domain_stability": Entry(
        "At which resolution domains are found again, without any labels.",
        'section = adata[adata.obs["sample"] == "P3_S1"].copy()\n'
        'stp.pl.domain_stability(stp.tl.domain_stability(section, "predicted_ridge", n_runs=4))',
    ),
    "domain_markers": Entry(
        "Genes that mark each domain.",
        'stp.tl.domains(adata, "predicted_ridge", n_domains=3)\n'
        'markers = stp.tl.domain_markers(adata, key="predicted_ridge")\n'
        'stp.pl.domain_markers(markers, colors=adata.uns["domain_colors"])',
    ),
    "blocks": Entry(
        "Blocks of one section, with the buffer around the block that is held out.",
        'section = adata[adata.obs["sample"] == "P1_S1"].copy()\n'
        "stp.pl.blocks(section, stp.cohorts.spatial_blocks(section, 4, buffer_um=250))",
    ),
    "attribution": Entry(
        "Which parts of a section speak for a gene.",
        'section = adata[adata.obs["sample"] == "P3_S1"].copy()\n'
        'linear = stp.tl.fit(adata, "ridge", adata.obs["patient"] != "P3")\n'
        'stp.tl.attribution(section, linear, "TUM001")\n'
        'stp.pl.attribution(section, "TUM001")',
    ),
    "enrichment": Entry(
        "Over-representation of gene sets among the markers of regions, against a stated background.",
        "kind = adata.var_names.str[:3]\n"
        "gene_sets = {name: list(adata.var_names[kind == name]) for name in kind.unique()}\n"
        'stp.pl.enrichment(stp.tl.enrich(adata, gene_sets, groupby="label", n_top=15), alpha=0.2)',
    ),
    "gene_pathways": Entry(
        "Which genes stand behind which gene sets, and how well each is predicted.",
        "good = stp.tl.replication(scores[scores['model'] == 'ridge'], by='sample', column='pearson', above=0.2).genes\n"
        'listed = stp.tl.enrich(good["gene"][good["n_holds"] > 4], gene_sets, background=adata.var_names)\n'
        "stp.pl.gene_pathways(listed, scores[scores['model'] == 'ridge'], alpha=0.5)",
    ),
    "replication": Entry(
        "In how many sections genes hold, beside how many would by chance.",
        "ridge = scores[scores['model'] == 'ridge']\n"
        'stp.pl.replication(stp.tl.replication(ridge, by="sample", column="pearson_residual", above=0.2))',
    ),
    "pathways": Entry(
        "Scores of gene sets by region.",
        'stp.tl.pathway_scores(adata, gene_sets, use="measured", key_added="pathways")\nstp.pl.pathways(adata, "label")',
    ),
    "pathway_agreement": Entry(
        "Pathways measured and predicted, beside random sets of genes of the same size and expression.",
        'agreement = stp.tl.pathway_agreement(adata, gene_sets, key="predicted_ridge", n_random=50)\n'
        "stp.pl.pathway_agreement(agreement)",
    ),
    "module_correlation": Entry(
        "Which genes go together, predicted and measured.",
        'modules = stp.tl.module_correlation(adata, "predicted_ridge", n_permutations=19)\n'
        "stp.pl.module_correlation(modules)",
    ),
    "nuclei": Entry(
        "Nuclei of a section, colored by a measure of each.",
        "near = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=4, n_spots=12)\n"
        'stp.pp.nuclei(near)\nstp.pl.nuclei(near, color="area_um2")',
    ),
    "super_resolved": Entry(
        "Expression inside and between the spots.",
        'fine = stp.tl.super_resolve(section, microns=32, n_blocks=0)\nstp.pl.super_resolved(section, fine, "TUM001")',
    ),
    "slide": Entry(
        "A whole slide with the tissue that was found and the tiles that were laid.",
        'one = stp.datasets.synthetic_slides(1, image_dir="one", slide_um=1200, microns_per_pixel=1)\n'
        'opened = stp.io.open_slide(one.obs["path"].iloc[0], sample="P9_S1", patient="P9")\n'
        "stp.pp.tissue(opened)\n"
        "stp.pp.tiles(opened, like=linear)\n"
        "stp.pl.slide(opened)",
    ),
    "maps": Entry(
        "Maps of genes over a slide that was only stained, by the model of sections.",
        'stp.pp.image_features(opened)\nstp.tl.predict(opened, linear)\nstp.pl.maps(opened, ["TUM001", "STR001"])',
    ),
    "well_predicted": Entry(
        "Genes whose profile over patients a slide tells about; the table is that of `stp.tl.well_predicted`, here made up.",
        "import numpy as np, pandas as pd\n\n"
        "r = np.random.default_rng(0).normal(0.2, 0.2, (2, 300))\n"
        "tables = {\n"
        '    name: pd.DataFrame({"gene": range(300), "pearson": each, "well_predicted": each > 0.4, "leaky": False})\n'
        '    for name, each in zip(["one model", "another"], r, strict=True)\n'
        "}\n"
        "stp.pl.well_predicted(tables)",
    ),
    "survival": Entry(
        "Survival by risk group, with the patients at risk.",
        "import anndata as ad\n\n"
        "rng = np.random.default_rng(0)\n"
        'people = pd.DataFrame({"patient": np.arange(120), "risk": rng.normal(size=120)}, [f"s{i}" for i in range(120)])\n'
        'people["er"] = rng.choice(["negative", "positive"], 120)\n'
        'until, censored = rng.exponential(8 * np.exp(-people["risk"])), rng.exponential(12, 120)\n'
        'people["time"], people["event"] = np.minimum(until, censored), until <= censored\n'
        'people["risk_group"] = np.where(people["risk"] > 0, "high", "low")\n'
        'stp.pl.survival(ad.AnnData(obs=people), time_label="years")',
    ),
    "forest": Entry(
        "Hazard ratios of a risk and of covariates.",
        'stp.pl.forest(stp.tl.hazard_ratios(ad.AnnData(obs=people), "er"))',
    ),
}


def pages() -> Iterator[tuple[str, Any, Entry]]:
    """Name, figure or interactive page, and entry of each plot, all in one namespace."""
    import matplotlib.pyplot as plt

    import stpredict as stp

    stp.settings.progress = False
    namespace: dict[str, Any] = {}
    exec(compile(START, "start", "exec"), namespace)
    for name, entry in GALLERY.items():
        plt.close("all")
        exec(compile(entry.code, name, "exec"), namespace)
        yield name, plt.gcf() if plt.get_fignums() else namespace["explorer"], entry
    plt.close("all")


def write(folder: Path) -> None:
    """Write a page and a picture of each plot, and the page that leads to them."""
    folder.mkdir(parents=True, exist_ok=True)
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the example is coarse and small, and says so
        os.chdir(scratch)
        try:
            for name, figure, entry in pages():
                if hasattr(figure, "savefig"):
                    figure.savefig(folder / f"{name}.png", dpi=90, bbox_inches="tight")
                    shown = f"![{entry.says}]({name}.png)"
                else:
                    (folder / f"{name}.html").write_text(figure._repr_html_())
                    shown = f"```{{raw}} html\n:file: {name}.html\n```"
                (folder / f"{name}.md").write_text(_page(name, entry, shown))
        finally:
            os.chdir(here)
    cards = [
        f":::{{grid-item-card}} {name}\n:link: {name}\n:link-type: doc\n"
        + f":img-bottom: {name}.png\n" * (folder / f"{name}.png").is_file()
        + f"{entry.says}\n:::"
        for name, entry in GALLERY.items()
    ]
    text = [
        "# Gallery",
        "Every plot, with the code that draws it. All of them start from:",
        f"```python\n{START.strip()}\n```",
        "::::{grid} 1 2 2 3\n:gutter: 2\n\n" + "\n\n".join(cards) + "\n\n::::",
        "```{toctree}\n:hidden:\n\n" + "\n".join(GALLERY) + "\n```",
    ]
    (folder / "index.md").write_text("\n\n".join(text) + "\n")


def _page(name: str, entry: Entry, shown: str) -> str:
    text = [f"# {name}", entry.says, shown, f"```python\n{entry.code}\n```"]
    text.append(
        f"{{func}}`stpredict.pl.{name}` says more. What is drawn comes from [the start of the gallery](index.md), and"
    )
    text[-1] += " where a name is not explained, from an example before this one."
    return "\n\n".join(text) + "\n"


if __name__ == "__main__":
    write(Path(sys.argv[1]).resolve())
