"""Read the DNA around the starts of genes, and what was measured along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.io._fasta import Fasta, SequenceWindows, missing_chromosomes
from stpredict.io._gene_starts import gene_starts
from stpredict.io._tracks import SignalWindows, open_track, region_mask
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record
from stpredict.slots._sequences import MIDDLE, UNKNOWN_BASE, sequence_digests, window_of
from stpredict.slots._unit import bare_chromosome, check_chromosomes, say_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_CHUNK = 64  # windows that are read at once
_LARGEST = 8 * 2**30  # bytes that are held without being asked for


def read_sequences(
    fasta: str | Path,
    genes: pd.DataFrame | str | Path,
    width: int = 2_000,
    *,
    names: Sequence[str] | None = None,
    expression: pd.DataFrame | None = None,
    signals: Mapping[str, str | Path] | None = None,
    blacklist: str | Path | None = None,
    lazy: bool = False,
) -> AnnData:
    r"""Read the DNA around the starts of genes from an indexed FASTA file, as a table whose rows are genes.

    Windows are read one by one, never a chromosome. Genes of the minus strand are read from its 5' end, so that the start
    of every gene is at index `width // 2` and transcription runs to the right.

    Parameters
    ----------
    fasta
        FASTA file of the genome, in plain text; its index (`.fai`) is made beside it where there is none. Chromosomes are
        recognized by their names with and without `chr`.
    genes
        Where genes start: a GTF file (the outer end of each gene on its strand), a table of these columns, or a DataFrame
        indexed by gene with `chrom`, `tss` (the first transcribed base, counted from 1) and `strand` (`"+"` or `"-"`); further
        columns are kept.
    width
        Bases of each window, at least 2.
    names
        Genes to read, in this order; all that the file names once when `None`.
    expression
        Values (genes × conditions), indexed by gene, for `X`; genes that it lacks are NaN. Take logarithms before: values are
        predicted as they stand.
    signals
        Tracks along the chromosomes by name: bigWig files, or matrices of contacts in the format of cooler (`.cool`, or
        `"hic.mcool::5000"` for one of several resolutions), of which the contacts with the start of the gene are read. Bases
        without a value are 0.
    blacklist
        BED file of regions that networks shall not select.
    lazy
        Leave sequences and signals in their files, and read windows when a network asks for them: for windows so long that
        all of them do not fit into memory. The files must stay where they are.

    Returns
    -------
    AnnData (n_genes, n_conditions), whose rows are genes:

    - `obs["chrom"]`, `obs["tss"]`, `obs["strand"]`, `obs["n_padded"]` (bases beyond the ends of the chromosome) and
      `obs["n_unknown"]` (bases of a window that are not known, those beyond the ends included);
    - `obsm["sequence"]` (n_genes, width) uint8: A 0, C 1, G 2, T 3, others 4; with `lazy` `obs["sequence_digest"]` instead;
    - with `signals`, `obsm["signals"]` (n_genes, width, k) float32, unless they are lazy;
    - with `blacklist`, `obsm["sequence_mask"]` (n_genes, width) int8, -1 in its regions;
    - `uns["stpredict"]["sequence"]`: files, width and names of the signals.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ImportError
        When pyfaidx, or for signals pyBigWig or cooler, is not installed (extra `dna`).
    KeyError
        When columns, genes or chromosomes are missing.
    OSError
        When the index of the FASTA file can neither be found nor written.
    ValueError
        When a file is damaged, a start lies beyond its chromosome, positions or strands are none, or the windows do not fit
        into 8 GiB and `lazy` was not asked for.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> fasta = Path(mkdtemp()) / "toy.fa"
    >>> _ = fasta.write_text(">chr1\nACGTACGTAC\n")
    >>> genes = pd.DataFrame({"chrom": ["1", "1"], "tss": [4, 4], "strand": ["+", "-"]}, index=["GENE", "ITNEG"])
    >>> adata = stp.io.read_sequences(fasta, genes, width=4)
    >>> ["".join("ACGTN"[base] for base in row) for row in adata.obsm["sequence"]]
    ['CGTA', 'GTAC']
    """
    import pandas as pd
    from anndata import AnnData

    if isinstance(width, bool) or int(width) != width or width < 2:
        raise ValueError(f"expected a width of at least 2 bases; found {width!r}")
    width, tracks = int(width), dict(signals or {})
    obs = gene_starts(genes, names)
    held = len(obs) * width * (1 + 4 * len(tracks))
    if held > _LARGEST and not lazy:
        raise ValueError(
            f"expected windows that fit into {_LARGEST / 2**30:g} GiB; found {len(obs)} of {width} bases with {len(tracks)} "
            f"signals ({held / 2**30:.1f} GiB); pass lazy=True to leave them in their files, or fewer genes with names="
        )
    place = obs[Key.CHROM].to_numpy(), obs[Key.TSS].to_numpy(), obs[Key.STRAND].to_numpy()
    _check_places(fasta, tracks, obs, width)
    windows, marks = SequenceWindows(fasta, *place, width), SignalWindows(list(tracks.values()), *place, width)
    values, var = None, pd.DataFrame(index=pd.Index([], dtype=object))
    if expression is not None:
        values, var = _matrix(expression, obs.index)
    adata = AnnData(values, obs=obs, var=var)
    check_chromosomes(adata, Key.CHROM)
    _fill(adata, windows, width, lazy=lazy)
    if tracks and not lazy:
        adata.obsm[Key.SIGNALS] = np.concatenate([marks[rows] for rows in _chunks(len(obs))])
    if blacklist is not None:
        adata.obsm[Key.SEQUENCE_MASK] = region_mask(blacklist, *place, width)
    say_genes(adata)
    record: dict[str, Any] = {
        "width": width,
        "fasta": str(Path(fasta).resolve()),
        "lazy": lazy,
        "signals": list(tracks),
    }
    record["signal_files"] = [_whole_path(path) for path in tracks.values()]
    record["blacklist"] = None if blacklist is None else str(Path(blacklist).resolve())
    write_record(adata, Key.SEQUENCE, record)
    return adata


def _fill(adata: AnnData, windows: SequenceWindows, width: int, *, lazy: bool) -> None:
    """Write sequences, or what they are recognized by, and how many of their bases are not known."""
    kept, digests, unknown = [], [], []
    first = max(0, (width - MIDDLE) // 2)
    for rows in _chunks(len(windows)):
        codes = windows[rows]
        unknown.append((codes == UNKNOWN_BASE).sum(axis=1))
        if lazy:
            digests.append(sequence_digests(codes[:, first : width - first]))
        else:
            kept.append(codes)
    adata.obs["n_unknown"] = np.concatenate(unknown)
    if lazy:
        adata.obs[Key.SEQUENCE_DIGEST] = np.concatenate(digests).astype(str)
    else:
        adata.obsm[Key.SEQUENCE] = np.concatenate(kept)


def _chunks(n: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]


def _check_places(fasta: str | Path, tracks: Mapping[str, str | Path], obs: pd.DataFrame, width: int) -> None:
    """Raise where a chromosome is missing in a file or a start lies beyond it; note how many bases lie beyond its ends."""
    chrom = obs[Key.CHROM].to_numpy()
    with Fasta(fasta) as file:
        missing_chromosomes(chrom, file.names, Path(fasta).name)
        lengths = file.lengths
    length = np.array([lengths[bare_chromosome(name)] for name in chrom])
    beyond = obs.index[obs[Key.TSS].to_numpy() > length]
    if len(beyond):
        first = obs.loc[beyond[0]]
        raise ValueError(
            f"expected the starts of all genes inside their chromosomes; found {few(beyond)} beyond the end ({beyond[0]}: "
            f"{first[Key.TSS]} on {first[Key.CHROM]}, which has {length[obs.index.get_loc(beyond[0])]} bases in {Path(fasta).name}); "
            "take positions and FASTA of one assembly"
        )
    start, stop = window_of(obs[Key.TSS].to_numpy(), obs[Key.STRAND].to_numpy(), width)
    obs["n_padded"] = np.maximum(-start, 0) + np.maximum(stop - length, 0)
    for name, path in tracks.items():
        track = open_track(path)
        try:
            missing_chromosomes(chrom, track.names, f"the signal {name!r}")
            for each in np.unique(chrom):
                if track.length(str(each)) != lengths[bare_chromosome(str(each))]:
                    raise ValueError(
                        f"expected the signal {name!r} on the assembly of {Path(fasta).name}; found {each} with "
                        f"{track.length(str(each))} bases instead of {lengths[bare_chromosome(str(each))]}; take files of one assembly"
                    )
        finally:
            track.close()


def _matrix(expression: pd.DataFrame, genes: pd.Index) -> tuple[np.ndarray, pd.DataFrame]:
    """Values (n_genes, n_conditions) float32 of the genes, NaN for those without, and the conditions."""
    import pandas as pd

    if not expression.index.is_unique:
        raise ValueError("expected each gene once in the index of expression; found some twice; average them first")
    found = expression.set_axis(expression.index.astype(str)).reindex(genes)
    if found.isna().all(axis=None):
        raise ValueError(
            f"expected genes of the windows in the index of expression; found none in common ({few(expression.index, 3)}; windows: "
            f"{few(genes, 3)}); name them the same way"
        )
    return found.to_numpy(dtype=np.float32), pd.DataFrame(index=expression.columns.astype(str))


def _whole_path(path: str | Path) -> str:
    file, mark, rest = str(path).partition("::")
    return f"{Path(file).resolve()}{mark}{rest}"
