"""DNA sequences of genes: as numbers, the other strand, and which genes have the same."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData

#: Code of a base that is not known, or lies beyond the chromosome.
UNKNOWN_BASE = 4
#: Bases around the start of a gene by which it is recognized.
MIDDLE = 2_048
_CODES = np.full(256, UNKNOWN_BASE, dtype=np.uint8)
for _number, _base in enumerate("ACGT"):
    _CODES[[ord(_base), ord(_base.lower())]] = _number
_CALL = "read the genes with stp.io.read_sequences, or put codes (n_genes, length) there: A 0, C 1, G 2, T 3, others 4"


def encoded(text: str | bytes) -> np.ndarray:
    """Codes (length,) uint8 of a sequence."""
    return _CODES[np.frombuffer(text.encode("ascii") if isinstance(text, str) else text, dtype=np.uint8)]


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Codes (…, length) of the other strand."""
    return np.where(codes < UNKNOWN_BASE, 3 - np.minimum(codes, 3), UNKNOWN_BASE).astype(np.uint8)[..., ::-1]


def window_of(tss: np.ndarray, strand: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """First base, counted from 0, and end (n,) of windows of genes that start at a base counted from 1.

    Read from 5' to 3' of the gene, the start is at index `width // 2`, whichever strand it is on.
    """
    first = np.asarray(tss, dtype=np.int64) - 1
    start = np.where(strand == "-", first + width // 2 + 1 - width, first - width // 2)
    return start, start + width


def sequence_length(adata: AnnData) -> int:
    """Number of bases of each sequence of an object, whether they are in it or in a file that it names."""
    if Key.SEQUENCE not in adata.obsm and (record := sequence_file(adata)):
        return int(record["width"])
    check_obsm(adata, Key.SEQUENCE, _CALL)
    return int(adata.obsm[Key.SEQUENCE].shape[1])


def sequence_file(adata: AnnData) -> dict[str, Any]:
    """Record of sequences that stay in a file; empty where there is none."""
    record = read_record(adata, Key.SEQUENCE) or {}
    return record if record.get("lazy") else {}


def sequence_codes(adata: AnnData, index: np.ndarray, center: int | None = None) -> np.ndarray:
    """Codes (n, length) uint8 of the sequences of some rows, or of so many bases in their middle.

    One-hot (n_obs, length, 4) is read as well.
    """
    check_obsm(adata, Key.SEQUENCE, _CALL)
    whole = adata.obsm[Key.SEQUENCE]
    what = f"obsm[{Key.SEQUENCE!r}]"
    if hasattr(whole, "iloc") or whole.ndim not in (2, 3):
        raise ValueError(f"expected an array of codes (n_genes, length) in {what}; found shape {whole.shape}; {_CALL}")
    first = 0 if center is None else max(0, (whole.shape[1] - center) // 2)
    values = np.asarray(whole[:, first : whole.shape[1] - first])[index]
    if values.ndim == 3 and values.shape[2] == UNKNOWN_BASE:
        if not np.isin(values, (0, 1)).all() or (values.sum(axis=2) > 1).any():
            raise ValueError(f"expected at most one base at each place of {what}; found others; {_CALL}")
        return np.where(values.any(axis=2), values.argmax(axis=2), UNKNOWN_BASE).astype(np.uint8)
    if values.ndim != 2 or values.dtype.kind not in "iu" or not values.shape[1]:
        raise ValueError(
            f"expected codes (n_genes, length) in {what}; found {values.dtype} of shape {values.shape}; {_CALL}"
        )
    if values.min(initial=0) < 0 or values.max(initial=0) > UNKNOWN_BASE:
        raise ValueError(
            f"expected codes from 0 to {UNKNOWN_BASE} in {what}; found {values.min()} to {values.max()}; {_CALL}"
        )
    return values.astype(np.uint8)


def middle_digests(adata: AnnData, index: np.ndarray) -> np.ndarray | None:
    """Digests (n,) of the middle of the sequences of some rows; `None` where there are none."""
    if Key.SEQUENCE in adata.obsm:
        return sequence_digests(sequence_codes(adata, index, MIDDLE))
    if sequence_file(adata) and Key.SEQUENCE_DIGEST in adata.obs:
        return adata.obs[Key.SEQUENCE_DIGEST].astype(str).to_numpy()[index].astype(object)
    return None


def sequence_digests(codes: np.ndarray) -> np.ndarray:
    """Digests (n,) of sequences (n, length), the same for both strands of one; empty for those without a known base."""
    digests = []
    for own in codes:
        if (own >= UNKNOWN_BASE).all():
            digests.append("")
            continue
        strands = own.tobytes(), reverse_complement(own).tobytes()
        digests.append(hashlib.blake2b(min(strands), digest_size=12).hexdigest())
    return np.array(digests, dtype=object)
