"""Signals along chromosomes, by base, from bigWig and cooler files; and regions of BED files."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._files import damage_named, parse_table, read_text
from stpredict.core._optional import optional_import
from stpredict.core._validate import few
from stpredict.io._fasta import by_bare_name
from stpredict.slots._sequences import window_of
from stpredict.slots._unit import bare_chromosome

_CONTACTS = (".cool", ".mcool")


class Track(ABC):
    """A signal along chromosomes, whose names are in `names` by what they are compared by."""

    names: Mapping[str, str]

    @abstractmethod
    def read(self, chromosome: str, start: int, stop: int, tss: int) -> np.ndarray:
        """Values (stop - start,) of the plus strand, inside the chromosome; NaN where nothing was measured."""

    @abstractmethod
    def length(self, chromosome: str) -> int:
        """Number of bases of a chromosome."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class BigWig(Track):
    """Values of a bigWig file."""

    def __init__(self, path: Path) -> None:
        package = optional_import("pyBigWig", "dna")
        try:
            self._file: Any = package.open(str(path))
        except RuntimeError as error:
            raise ValueError(
                f"expected a bigWig file at {path}; found a damaged one, or one of another kind"
            ) from error
        if not self._file.isBigWig():
            raise ValueError(f"expected a bigWig file at {path}; found a bigBed file, which holds no values by base")
        self.names = by_bare_name(self._file.chroms(), str(path))

    def read(self, chromosome: str, start: int, stop: int, tss: int) -> np.ndarray:
        """Values of the file."""
        return np.asarray(self._file.values(self.names[bare_chromosome(chromosome)], start, stop), dtype=np.float64)

    def length(self, chromosome: str) -> int:
        """Number of bases of a chromosome."""
        return int(self._file.chroms(self.names[bare_chromosome(chromosome)]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Contacts(Track):
    """Contacts with the start of the gene, from a matrix of Hi-C: the row of its bin, balanced where the file can."""

    def __init__(self, path: Path, resolution: int | None) -> None:
        package = optional_import("cooler", "dna")
        with damage_named(path, "contacts in the format of cooler"):
            found = package.fileops.list_coolers(str(path))
            sizes = {int(name.rpartition("/")[2]): name for name in found if name.rpartition("/")[2].isdigit()}
            if resolution is None and len(found) > 1:
                resolution = min(sizes)
            if resolution is not None and sizes and resolution not in sizes:
                raise ValueError(
                    f"expected a resolution of {few(sorted(sizes))} bases in {path}; found {resolution} asked for"
                )
            self._file: Any = package.Cooler(f"{path}::{sizes[resolution]}" if sizes and resolution else str(path))
        if self._file.binsize is None:
            raise ValueError(f"expected bins of one size in {path}; found several; take a matrix with a resolution")
        self._balance = "weight" in self._file.bins().columns
        self.names = by_bare_name(self._file.chromnames, str(path))

    def read(self, chromosome: str, start: int, stop: int, tss: int) -> np.ndarray:
        """Contacts of each base's bin with the bin of the start of the gene."""
        name, size = self.names[bare_chromosome(chromosome)], int(self._file.binsize)
        matrix = self._file.matrix(balance=self._balance)
        row = matrix.fetch((name, tss, tss + 1), (name, start, stop))[0]
        return np.asarray(row, dtype=np.float64)[np.arange(start, stop) // size - start // size]

    def length(self, chromosome: str) -> int:
        """Number of bases of a chromosome."""
        return int(self._file.chromsizes[self.names[bare_chromosome(chromosome)]])

    def close(self) -> None:
        """Nothing stays open."""


def open_track(path: str | Path) -> Track:
    """Open a signal by the end of its name; a resolution may follow a matrix of contacts: `hic.mcool::5000`."""
    text, _, resolution = str(path).partition("::")
    file = Path(text)
    if not file.is_file():
        raise FileNotFoundError(f"expected a bigWig or cooler file at {file}; found none")
    if file.suffix.lower() in _CONTACTS:
        if resolution and not resolution.rpartition("/")[2].isdigit():
            raise ValueError(
                f"expected the resolution in bases after '::'; found {resolution!r}; for example hic.mcool::5000"
            )
        return Contacts(file, int(resolution.rpartition("/")[2]) if resolution else None)
    if file.suffix.lower() == ".hic":
        raise ValueError(
            f"expected contacts in the format of cooler; found {file}; convert it: hictk convert in.hic out.mcool"
        )
    return BigWig(file)


class SignalWindows:
    """Signals around the starts of genes, read from files when they are asked for: a row source (n, width, k).

    Parameters
    ----------
    paths
        Files of the k signals.
    chrom, tss, strand
        (n,) chromosome, first transcribed base counted from 1, and strand of each gene.
    width
        Bases of a window.
    """

    dtype = np.dtype(np.float32)

    def __init__(
        self, paths: Sequence[str | Path], chrom: np.ndarray, tss: np.ndarray, strand: np.ndarray, width: int
    ) -> None:
        self.paths, self.width = [str(path) for path in paths], int(width)
        self.chrom, self.tss, self.strand = chrom, np.asarray(tss, dtype=np.int64), strand

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, width, k)."""
        return len(self.chrom), self.width, len(self.paths)

    def __len__(self) -> int:
        return len(self.chrom)

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.atleast_1d(np.arange(len(self))[index])
        start, stop = window_of(self.tss[rows], self.strand[rows], self.width)
        found = np.zeros((len(rows), self.width, len(self.paths)), dtype=np.float32)
        for column, path in enumerate(self.paths):
            track = open_track(path)
            try:
                for place, (row, a, b) in enumerate(zip(rows, start, stop, strict=True)):
                    first, last = max(0, int(a)), min(track.length(str(self.chrom[row])), int(b))
                    if first >= last:
                        continue
                    values = track.read(str(self.chrom[row]), first, last, int(self.tss[row]) - 1)
                    found[place, first - a : last - a, column] = np.nan_to_num(values, posinf=0, neginf=0)
            finally:
                track.close()
        minus = self.strand[rows] == "-"
        found[minus] = found[minus][:, ::-1]
        return found

    def fingerprint(self) -> str:
        """Digest of what is read: the files, as far as their size and age tell them, and the places."""
        files = [Path(path.partition("::")[0]).stat() for path in self.paths]
        told = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(self.paths, files, strict=True)]
        digest = hashlib.sha256(f"{told} {self.width}".encode())
        for values in (self.chrom.astype(str), self.tss, self.strand.astype(str)):
            digest.update("\0".join(map(str, values)).encode())
        return digest.hexdigest()


def region_mask(path: str | Path, chrom: np.ndarray, tss: np.ndarray, strand: np.ndarray, width: int) -> np.ndarray:
    """Mask (n, width) int8 of windows around the starts of genes: -1 in the regions of a BED file, 0 elsewhere."""
    file, what = Path(path), "regions in BED (chromosome, start, end)"
    if not file.is_file():
        raise FileNotFoundError(f"expected {what} at {file}; found none")
    lines = [
        line
        for line in read_text(file, what).splitlines()
        if line.strip() and not line.startswith(("#", "track", "browser"))
    ]
    table = parse_table(
        "\n".join(lines), file, what, sep=r"\s+", header=None, usecols=[0, 1, 2], dtype={0: str, 1: int, 2: int}
    )
    if (table[1] < 0).any() or (table[2] < table[1]).any():
        raise ValueError(f"expected starts from 0 and ends after them in {file}; found others; correct them")
    regions: dict[str, list[tuple[int, int]]] = {}
    for name, start, stop in table.itertuples(index=False):
        regions.setdefault(bare_chromosome(name), []).append((int(start), int(stop)))
    starts, stops = window_of(tss, strand, width)
    mask = np.zeros((len(starts), width), dtype=np.int8)
    for row, (name, a, b) in enumerate(zip(chrom, starts, stops, strict=True)):
        for start, stop in regions.get(bare_chromosome(str(name)), ()):
            if start < b and stop > a:
                mask[row, max(start - a, 0) : min(stop, b) - a] = -1
        if strand[row] == "-":
            mask[row] = mask[row, ::-1]
    return mask
