"""Texts about genes as tokens, without what they say about abundance."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.pp._text_rows import checked_texts
from stpredict.slots._checks import check_obs
from stpredict.slots._container import begin
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

#: What says how much there is of a gene, or where: beginnings of words.
_ABUNDANCE = (
    "abundan", "abundance", "express", "overexpress", "underexpress", "coexpress", "ubiquit", "housekeep", "detect", "enrich",
    "upregulat", "downregulat", "up-regulat", "down-regulat", "transcript level", "mrna level", "protein level", "high level",
    "low level", "highly", "lowly", "silenc", "tpm", "rpkm", "fpkm", "cpm", "copies per cell", "restricted to", "predominant",
)  # fmt: skip
_TISSUES = (
    "tissue", "organ", "cell type", "adipo", "adrenal", "adult", "artery", "astrocyt", "bladder", "blood", "bone", "brain", "breast",
    "cardi", "cartilag", "cerebell", "cerebr", "cervi", "cochlea", "colon", "cortex", "embryo", "endometri", "epiderm", "erythro",
    "esophag", "eye", "fetal", "fetus", "fibroblast", "gastr", "germ cell", "granulocyt", "heart", "hepat", "hippocamp",
    "intestin", "keratinocyt", "kidney", "leukocyt", "liver", "lung", "lymph", "macrophag", "mammary", "marrow", "melanocyt",
    "monocyt", "muscle", "myocard", "neural", "neuron", "oocyt", "ovar", "pancrea", "placent", "platelet", "prostat", "pulmon",
    "renal", "retina", "saliva", "serum", "skelet", "skin", "sperm", "spinal", "spleen", "stomach", "testi", "thymus", "thyroid",
    "tonsil", "trachea", "urin", "uter", "vascul",
)  # fmt: skip
_TOLD = re.compile(r"\b(?:" + "|".join(map(re.escape, (*_ABUNDANCE, *_TISSUES))) + r")", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.;!?])\s+")
_WORD = re.compile(r"[^\W_]+")


def gene_prompts(
    data: Container,
    texts: Mapping[str, str] | pd.Series | str,
    *,
    keep_abundance: bool = False,
    tokenizer: Callable[[str], Sequence[int]] | None = None,
    vocabulary: int = 4096,
    max_tokens: int = 64,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Write what is known of genes in words as tokens, for networks such as `"gta"` that read it before the DNA.

    Summaries of genes often say where a gene is expressed, and how much: a prediction from such a prompt is none from
    sequence. Sentences with a word about abundance or a tissue are left out, whole, so that nothing of them stays behind.
    Whatever is left may still say it in other words: compare with `hyperparameters={"prompt": "none"}`, which reads the sequence
    alone, and with `{"prompt": "shuffled"}`, which reads the prompt of another gene.

    Parameters
    ----------
    data
        Table whose rows are genes, see :func:`stpredict.pp.as_genes`.
    texts
        What is written about each gene: by gene, or the name of a column of `obs`.
    keep_abundance
        Whether to keep sentences about abundance and tissues; recorded.
    tokenizer
        Function from a text to the numbers of its tokens: that of the language model. When `None`, words are hashed into
        numbers below `vocabulary`, for the random language model.
    vocabulary
        Number of tokens of the language model.
    max_tokens
        Tokens of a prompt at most; the first are kept.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm["prompt_ids"]`: (n_genes, n_tokens) int64, -1 for padding and for genes without a text;
    - `uns["stpredict"]["prompt_ids"]`: the settings, the number of sentences and of those left out, of genes without a prompt,
      and a digest of the texts that were kept.

    Raises
    ------
    KeyError
        When there is no such column.
    TypeError
        When texts are none.
    ValueError
        When no gene has a text, a number is out of range, or tokens do not fit into the vocabulary.

    Examples
    --------
    >>> import stpredict as stp
    >>> genes = stp.datasets.synthetic_genes(n_genes=8, width=64)
    >>> texts = {"G0000": "A kinase of the cell cycle. Highly expressed in liver."}
    >>> stp.pp.gene_prompts(genes, texts)
    >>> (genes.obsm["prompt_ids"] >= 0).sum(axis=1).tolist()
    [6, 0, 0, 0, 0, 0, 0, 0]
    """
    container, adata = begin(data, copy, table_key)
    for name, value in (("vocabulary", vocabulary), ("max_tokens", max_tokens)):
        if isinstance(value, bool) or int(value) != value or value < 1:
            raise ValueError(f"expected {name} to be a whole number of at least 1; found {value!r}")
    if isinstance(texts, str):
        import pandas as pd

        check_obs(adata, texts, "put texts about the genes there, or pass them by gene")
        texts = pd.Series(adata.obs[texts].astype(object).to_numpy(), index=adata.obs_names)
    written = checked_texts(texts)
    names = [str(name) for name in adata.obs_names]
    if not any(name in written for name in names):
        raise ValueError(
            f"expected texts of the genes ({few(names)}); found none of these among {few(written) or 'none'}; name the genes the "
            "same way"
        )
    tokens, kept, n_sentences, n_dropped = [], [], 0, 0
    for name in names:
        sentences = _SENTENCE.split(written.get(name, ""))
        plain = [each for each in sentences if each and (keep_abundance or not _TOLD.search(each))]
        n_sentences += sum(map(bool, sentences))
        n_dropped += sum(map(bool, sentences)) - len(plain)
        text = " ".join(plain)
        kept.append(text)
        numbers = (
            _hashed(text, vocabulary)
            if tokenizer is None
            else [int(number) for number in tokenizer(text)]
            if text
            else []
        )
        if any(not 0 <= number < vocabulary for number in numbers):
            raise ValueError(
                f"expected tokens below vocabulary={vocabulary}; found {max(numbers)} in the text of {name}; pass the vocabulary of "
                "the language model"
            )
        tokens.append(numbers[:max_tokens])
    ids = np.full((len(names), max(1, max(map(len, tokens)))), -1, dtype=np.int64)
    for row, numbers in zip(ids, tokens, strict=True):
        row[: len(numbers)] = numbers
    adata.obsm[Key.PROMPT_IDS] = ids
    record: dict[str, Any] = {"keep_abundance": keep_abundance, "vocabulary": vocabulary, "max_tokens": max_tokens}
    record |= {"n_sentences": n_sentences, "n_dropped": n_dropped, "n_empty": sum(not numbers for numbers in tokens)}
    record["tokenizer"] = (
        "hashed words" if tokenizer is None else getattr(tokenizer, "__name__", type(tokenizer).__name__)
    )
    record["digest"] = hashlib.sha256("\0".join(kept).encode()).hexdigest()
    write_record(adata, Key.PROMPT_IDS, record)
    return container if copy else None


def _hashed(text: str, vocabulary: int) -> list[int]:
    """Numbers of words that follow from the words alone."""
    digests = (hashlib.blake2b(word.casefold().encode(), digest_size=8).digest() for word in _WORD.findall(text))
    return [int.from_bytes(digest) % vocabulary for digest in digests]
