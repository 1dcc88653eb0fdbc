"""Prompts of genes: what they say of abundance is left out, and what is left does not predict it."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

ROLES = ("kinase", "receptor", "channel", "protease", "ligase", "chaperone", "transporter", "phosphatase")


def texts_of(adata: ad.AnnData, seed: int = 0) -> dict[str, str]:
    """What a gene does, at random, and a sentence that tells its abundance."""
    rng = np.random.default_rng(seed)
    level = np.digitize(adata.obs["expr"], [-0.5, 0.5])
    say = (
        "Transcripts are barely detectable in any tissue.",
        "It is expressed at moderate levels in kidney.",
        "Highly abundant in liver and heart.",
    )
    return {
        name: f"This gene encodes a {ROLES[rng.integers(8)]} of the {ROLES[rng.integers(8)]} family. {say[at]} It binds ATP."
        for name, at in zip(adata.obs_names, level, strict=True)
    }


def test_sentences_about_abundance_and_tissues_are_left_out() -> None:
    genes = stp.datasets.synthetic_genes(20, width=64)
    texts = texts_of(genes)
    stp.pp.gene_prompts(genes, texts, tokenizer=lambda text: [len(w) for w in text.split()])
    assert (genes.obsm["prompt_ids"] >= 0).sum(axis=1).tolist() == [12] * 20  # nine words, and three
    record = genes.uns["stpredict"]["prompt_ids"]
    assert (record["n_sentences"], record["n_dropped"], record["n_empty"]) == (60, 20, 0)
    stp.pp.gene_prompts(genes, texts, keep_abundance=True, max_tokens=10)
    assert genes.obsm["prompt_ids"].shape == (20, 10)


@pytest.mark.parametrize(
    "sentence",
    [
        "Ubiquitously found.", "HIGHLY EXPRESSED.", "Median 30 TPM.", "Enriched in testis.", "Overexpressed in tumors.",
        "Seen in cardiomyocytes", "Marks hepatocytes.", "mRNA levels are low.", "A housekeeping gene.", "Restricted to neurons.",
    ],
)  # fmt: skip
def test_ways_to_say_it(sentence: str) -> None:
    genes = stp.datasets.synthetic_genes(8, width=64)
    stp.pp.gene_prompts(genes, {"G0000": f"A kinase. {sentence}", "G0001": sentence})
    assert (genes.obsm["prompt_ids"] >= 0).sum(axis=1).tolist() == [2, *[0] * 7]


def test_prompts_without_abundance_words_do_not_predict_abundance() -> None:
    """The DNA says nothing here; only prompts that were not cleaned tell the expression of genes of other chromosomes."""
    genes = stp.datasets.synthetic_genes(480, width=64, n_chromosomes=3)
    genes.obsm["sequence_features"] = np.random.default_rng(1).normal(size=(480, 4, 3)).astype(np.float32)
    options: dict[str, Any] = {
        "target": "expr", "baselines": False, "progress": False, "metrics": ["pearson"],
    }  # fmt: skip
    training = {"max_epochs": 9, "patience": 0, "learning_rate": 3e-3, "batch_size": 16}
    small = dict(stp.models.get_model("gta").options("small"))
    found = {}
    test = (genes.obs["chrom"] == "chr1").to_numpy()
    folds = [stp.cohorts.Fold("chr1", ~test, test)]
    for keep in (True, False):
        stp.pp.gene_prompts(genes, texts_of(genes), keep_abundance=keep, vocabulary=64)
        models: dict[str, Any] = {"own": {"model": "gta", "hyperparameters": small, "training": training}}
        if keep:
            models["shuffled"] = models["own"] | {"hyperparameters": small | {"prompt": "shuffled"}}
        scores = stp.tl.cross_validate(genes, models, folds, **options)
        found |= {(keep, name): r for name, r in scores.set_index("model")["pearson"].items()}
    assert found[True, "own"] > 0.7
    assert abs(found[True, "shuffled"]) < 0.3
    assert abs(found[False, "own"]) < 0.3


@pytest.mark.parametrize(
    ("texts", "options", "error", "match"),
    [
        ({"other": "A kinase."}, {}, ValueError, "none of these among other"),
        ("summary", {}, KeyError, r"obs\['summary'\]"),
        ({"G0000": 3}, {}, TypeError, "expected texts"),
        ({"G0000": "A kinase."}, {"max_tokens": 0}, ValueError, "max_tokens"),
        ({"G0000": "A kinase."}, {"tokenizer": lambda text: [99], "vocabulary": 64}, ValueError, "found 99 in the text of G0000"),
    ],
)  # fmt: skip
def test_faults_are_named(texts: Any, options: dict[str, Any], error: type[Exception], match: str) -> None:
    genes = stp.datasets.synthetic_genes(8, width=64)
    with pytest.raises(error, match=match):
        stp.pp.gene_prompts(genes, texts, **options)
    assert "prompt_ids" not in genes.obsm
