"""Gene sets as they are shared: GMT files."""

from __future__ import annotations

from pathlib import Path

from stpredict.core._files import read_text


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    """Read the gene sets of a GMT file: term, description and genes, separated by tabs; weights are dropped."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a GMT file at {path}; found none")
    sets = {}
    for line in read_text(path, "gene sets (GMT)").split("\n"):
        term, *fields = line.rstrip().split("\t")
        if len(fields) > 1:
            sets[term] = [gene.split(",")[0] for gene in fields[1:] if gene]
    if not sets:
        raise ValueError(f"expected terms with genes, separated by tabs, in {path.name}; found none")
    return sets
