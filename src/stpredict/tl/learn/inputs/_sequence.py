"""DNA around the start of each gene, and what is known along it; the rows are genes."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._derangement import derangement
from stpredict.core._validate import check_finite
from stpredict.io._fasta import SequenceWindows
from stpredict.io._tracks import SignalWindows
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix, single_precision
from stpredict.slots._sequences import sequence_codes, sequence_file, sequence_length
from stpredict.tl.learn.inputs._reader import Reader, Source

_READ = "read the genes with stp.io.read_sequences"


class Sequence(Reader):
    """`obsm["sequence"]`: codes (n, length), or one-hot (n, length, 4)."""

    names = (Key.SEQUENCE,)

    def read(self, source: Source) -> dict[str, Any]:
        """Codes (n, length) uint8; of sequences that stay in their file, windows that are read when they are needed."""
        adata, index = source.adata, source.rows.index
        if Key.SEQUENCE not in adata.obsm and (record := sequence_file(adata)):
            return {Key.SEQUENCE: SequenceWindows(str(record["fasta"]), *_places(source), int(record["width"]))}
        return {Key.SEQUENCE: sequence_codes(adata, index)}


class SequenceMask(Reader):
    """`obsm["sequence_mask"]` (n, length): -1 left out, 0 free, 1 always kept; free throughout where there is none."""

    names = (Key.SEQUENCE_MASK,)

    def read(self, source: Source) -> dict[str, Any]:
        """Mask (n, length) int8."""
        shape = (len(source.rows), sequence_length(source.adata))
        if Key.SEQUENCE_MASK not in source.adata.obsm:
            return {Key.SEQUENCE_MASK: np.zeros(shape, dtype=np.int8)}
        values = numeric_matrix(source.adata.obsm[Key.SEQUENCE_MASK][source.rows.index], _slot(Key.SEQUENCE_MASK))
        if values.shape != shape or not np.isin(values, (-1, 0, 1)).all():
            raise ValueError(
                f"expected -1, 0 or 1 for each of {shape[1]} bases in {_slot(Key.SEQUENCE_MASK)}; found shape {values.shape} "
                f"and values from {values.min(initial=0)} to {values.max(initial=0)}; {_READ}(…, blacklist=…)"
            )
        return {Key.SEQUENCE_MASK: values.astype(np.int8)}


class Signals(Reader):
    """`obsm["signals"]` (n, length, k): tracks along the sequence."""

    names = (Key.SIGNALS,)

    def read(self, source: Source) -> dict[str, Any]:
        """Values (n, length, k) float32; of signals that stay in their files, windows that are read when they are needed."""
        record = sequence_file(source.adata)
        if Key.SIGNALS not in source.adata.obsm and len(files := np.atleast_1d(record.get("signal_files", []))):
            return {Key.SIGNALS: SignalWindows([str(f) for f in files], *_places(source), int(record["width"]))}
        found = _array(source, Key.SIGNALS, 3, "pass signals= to stp.io.read_sequences")
        length = sequence_length(source.adata)
        if found.shape[1] != length:
            raise ValueError(
                f"expected {_slot(Key.SIGNALS)} for each of the {length} bases of the sequence; found {found.shape[1]}; {_READ}"
            )
        return {Key.SIGNALS: found}


class SequenceFeatures(Reader):
    """`obsm["sequence_features"]` (n, n_windows, d): what a network of DNA says of windows along the sequence."""

    names = (Key.SEQUENCE_FEATURES,)

    def read(self, source: Source) -> dict[str, Any]:
        """Features (n, n_windows, d) float32."""
        call = f"put features (n_genes, n_windows, d) of windows along the sequence into {_slot(Key.SEQUENCE_FEATURES)}"
        return {Key.SEQUENCE_FEATURES: _array(source, Key.SEQUENCE_FEATURES, 3, call)}


class GeneFeatures(Reader):
    """`obsm["gene_features"]` (n, d): numbers about each gene, such as what its half-life depends on."""

    names = (Key.GENE_FEATURES,)

    def read(self, source: Source) -> dict[str, Any]:
        """Features (n, d) float32."""
        call = f"put numbers (n_genes, d) about the genes into {_slot(Key.GENE_FEATURES)}"
        return {Key.GENE_FEATURES: _array(source, Key.GENE_FEATURES, 2, call)}


class PromptIds(Reader):
    """`obsm["prompt_ids"]` (n, n_tokens): numbers of the tokens of a text about each gene; none where there is no slot.

    Where the configuration asks for shuffled prompts, each gene has that of another one.
    """

    names = (Key.PROMPT_IDS,)

    def read(self, source: Source) -> dict[str, Any]:
        """Numbers (n, n_tokens) int64, -1 for padding."""
        index = source.rows.index
        if Key.PROMPT_IDS not in source.adata.obsm:
            return {Key.PROMPT_IDS: np.zeros((len(index), 0), dtype=np.int64)}
        values = np.asarray(source.adata.obsm[Key.PROMPT_IDS])[index]
        if values.ndim != 2 or values.dtype.kind not in "iu" or (values < -1).any():
            raise ValueError(
                f"expected numbers of tokens (n_genes, n_tokens), -1 for padding, in {_slot(Key.PROMPT_IDS)}; found "
                f"{values.dtype} of shape {values.shape}; run stp.pp.gene_prompts"
            )
        if getattr(source.config, "prompt", None) == "shuffled":
            whole = np.asarray(source.adata.obsm[Key.PROMPT_IDS])
            values = whole[derangement(len(whole), 0)[index]] if len(whole) > 1 else values
        return {Key.PROMPT_IDS: values.astype(np.int64)}


def _places(source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Chromosome, start and strand (n,) of the genes."""
    obs = source.adata.obs
    for key in (Key.CHROM, Key.TSS, Key.STRAND):
        check_obs(source.adata, key, _READ)
    chrom, tss, strand = (obs[key].to_numpy()[source.rows.index] for key in (Key.CHROM, Key.TSS, Key.STRAND))
    return chrom.astype(str), tss, strand.astype(str)


def _slot(key: str) -> str:
    return f"obsm[{key!r}]"


def _array(source: Source, key: str, n_axes: int, call: str) -> np.ndarray:
    """Finite numbers of a slot, float32, with so many axes."""
    check_obsm(source.adata, key, call)
    values = np.asarray(source.adata.obsm[key])
    if values.ndim != n_axes or not values.shape[-1]:
        raise ValueError(f"expected {n_axes} axes in {_slot(key)}; found shape {values.shape}; {call}")
    found = single_precision(numeric_matrix(values[source.rows.index], _slot(key)), f"values in {_slot(key)}")
    check_finite(found.reshape(len(found), -1), f"values in {_slot(key)}", call)
    return found
