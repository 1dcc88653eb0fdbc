"""Windows of an indexed FASTA file, read one by one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._optional import optional_import
from stpredict.core._validate import few
from stpredict.slots._sequences import UNKNOWN_BASE, encoded, reverse_complement, window_of
from stpredict.slots._unit import bare_chromosome


class Fasta:
    """An indexed FASTA file by the names of its chromosomes, whichever style these are in (`1` or `chr1`).

    The index (`.fai`, as of `samtools faidx`) is made beside the file where there is none, or an older one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"expected a FASTA file at {self.path}; found none")
        package = optional_import("pyfaidx", "dna")
        try:
            self._file: Any = package.Fasta(str(self.path), as_raw=True)
        except OSError as error:
            raise OSError(
                f"expected the index {self.path.name}.fai beside {self.path}, or a folder to write it in; found neither ({error}); "
                "call samtools faidx, or copy the file"
            ) from error
        except (package.FastaIndexingError, package.UnsupportedCompressionFormat, ImportError, ValueError) as error:
            what = str(error).partition("\n")[0]
            raise ValueError(
                f"expected sequences in FASTA, in plain text, with lines of one length in {self.path}; found: {what}; unpack a "
                "compressed file with gunzip, or fetch it again"
            ) from error
        self.names = by_bare_name(self._file.keys(), str(self.path))

    def __enter__(self) -> Fasta:
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()

    @property
    def lengths(self) -> dict[str, int]:
        """Number of bases of each chromosome, by its name without `chr`."""
        return {bare: len(self._file[name]) for bare, name in self.names.items()}

    def read(self, chromosome: str, start: int, stop: int) -> np.ndarray:
        """Codes (stop - start,) uint8 of a part of the plus strand; what lies beyond the ends is not known."""
        record = self._file[self.names[bare_chromosome(chromosome)]]
        first, last = max(0, start), min(len(record), stop)
        found = np.full(stop - start, UNKNOWN_BASE, dtype=np.uint8)
        if first < last:
            found[first - start : last - start] = encoded(record[first:last])
        return found


def by_bare_name(names: Iterable[str], where: str) -> dict[str, str]:
    """Names of chromosomes by what they are compared by; an error where two are the same."""
    found: dict[str, str] = {}
    for name in map(str, names):
        if (bare := bare_chromosome(name)) in found:
            raise ValueError(
                f"expected one name for each chromosome in {where}; found {found[bare]} and {name}; rename one of them"
            )
        found[bare] = name
    return found


def missing_chromosomes(wanted: Iterable[str], there: Mapping[str, str], where: str) -> None:
    """Raise where chromosomes of genes are not in a file, however they are written."""
    absent = sorted({name for name in wanted if bare_chromosome(name) not in there})
    if absent:
        raise KeyError(
            f"expected the chromosomes of all genes in {where}; found no {few(absent)} among {few(there.values(), 8)}; take the file "
            "of the same assembly, or leave these genes out"
        )


class SequenceWindows:
    """Codes of windows around the starts of genes, read from a file when they are asked for: a row source (n, width).

    Parameters
    ----------
    path
        FASTA file.
    chrom, tss, strand
        (n,) chromosome, first transcribed base counted from 1, and strand of each gene.
    width
        Bases of a window.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path: str | Path, chrom: np.ndarray, tss: np.ndarray, strand: np.ndarray, width: int) -> None:
        self.path, self.width = Path(path), int(width)
        self.chrom, self.tss, self.strand = chrom, np.asarray(tss, dtype=np.int64), strand

    @property
    def shape(self) -> tuple[int, int]:
        """(n, width)."""
        return len(self.chrom), self.width

    def __len__(self) -> int:
        return len(self.chrom)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.atleast_1d(np.arange(len(self))[index])
        start, stop = window_of(self.tss[rows], self.strand[rows], self.width)
        found = np.empty((len(rows), self.width), dtype=np.uint8)
        with Fasta(self.path) as file:
            for place, (row, a, b) in enumerate(zip(rows, start, stop, strict=True)):
                codes = file.read(str(self.chrom[row]), int(a), int(b))
                found[place] = reverse_complement(codes) if self.strand[row] == "-" else codes
        return found

    def fingerprint(self) -> str:
        """Digest of what is read: the file, as far as its size and age tell it, and the places."""
        stat = self.path.stat()
        told = f"{self.path.resolve()} {stat.st_size} {stat.st_mtime_ns} {self.width}"
        digest = hashlib.sha256(told.encode())
        for values in (self.chrom.astype(str), self.tss, self.strand.astype(str)):
            digest.update("\0".join(map(str, values)).encode())
        return digest.hexdigest()
