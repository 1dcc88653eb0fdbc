"""Gene sets: where they come from, which genes of a background they hold, and what kind of names these are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict.core._gmt import read_gmt
from stpredict.core._validate import check_unique, few

if TYPE_CHECKING:
    from scipy.sparse import csr_array

GeneSets: TypeAlias = "Mapping[str, Iterable[str]] | str | Path"

#: In this order: a name of digits is also one of letters and digits.
_KINDS = (
    ("Ensembl genes", re.compile(r"ENS[A-Z]*G\d{6,}(\.\d+)?")),
    ("Ensembl transcripts", re.compile(r"ENS[A-Z]*T\d{6,}(\.\d+)?")),
    ("Entrez numbers", re.compile(r"\d+(\.0)?")),
    ("RefSeq accessions", re.compile(r"[NX][MRP]_\d+(\.\d+)?")),
    ("Affymetrix probes", re.compile(r"(AFFX-.+|\d+(_[a-z])?_at)")),
    ("UniProt accessions", re.compile(r"[OPQ]\d[A-Z0-9]{3}\d|[A-NR-Z]\d([A-Z][A-Z0-9]{2}\d){1,2}")),
    ("human symbols", re.compile(r"[A-Z][A-Z0-9-]*(orf\d+)?([.-].*)?")),
    ("mouse symbols", re.compile(r"[A-Z][a-z0-9-]+.*")),
)
_LOOKED_AT = 500  # names


@dataclass(frozen=True)
class Membership:
    """Which genes of a background are in which sets.

    Attributes
    ----------
    terms
        Names of the sets that fit.
    member
        (n_terms, n_genes) 0 and 1, sparse, float64.
    size
        (n_terms,) genes of each set within the background.
    n_given
        Sets there were, those that do not fit among them.
    """

    terms: list[str]
    member: csr_array
    size: np.ndarray
    n_given: int


def read_gene_sets(gene_sets: GeneSets, organism: str = "human") -> dict[str, list[str]]:
    """Genes of each set, each once: of a mapping, of a GMT file, or of a library that gseapy fetches by its name.

    Raises
    ------
    TypeError
        For anything else, and for sets that are one text instead of several.
    FileNotFoundError
        When there is no GMT file at the path.
    ConnectionError
        When a library cannot be fetched.
    """
    sets: dict[str, Any]
    if isinstance(gene_sets, Mapping):
        sets = {str(term): genes for term, genes in gene_sets.items()}
    elif isinstance(gene_sets, Path) or (isinstance(gene_sets, str) and _is_file(gene_sets)):
        sets = dict(read_gmt(gene_sets))
    elif isinstance(gene_sets, str):
        sets = _library(gene_sets, organism)
    else:
        raise TypeError(
            f"expected gene sets as a mapping, a GMT file, or the name of a library; found {type(gene_sets).__name__}"
        )
    found = {}
    for term, genes in sets.items():
        if isinstance(genes, str) or not isinstance(genes, Iterable):
            raise TypeError(f"expected the genes of {term!r} as a list; found {type(genes).__name__}: {genes!r}")
        found[term] = list(dict.fromkeys(str(gene) for gene in genes))
    if not found:
        raise ValueError("expected at least one gene set; found none")
    return found


def membership(
    gene_sets: GeneSets,
    genes: Sequence[str],
    min_size: int,
    max_size: int,
    *,
    what: str = "genes of the background",
    organism: str = "human",
) -> Membership:
    """Sets of fitting size and their genes among those of a background, which has none twice.

    Raises
    ------
    ValueError
        When a gene occurs twice, or no set fits; the message says what kinds of names the sets and the background seem to have.
    """
    import pandas as pd
    from scipy import sparse

    if not 1 <= min_size <= max_size:
        raise ValueError(f"expected 1 ≤ min_size ≤ max_size; found {min_size} and {max_size}")
    check_unique(genes, what)
    sets = read_gene_sets(gene_sets, organism)
    index = pd.Index(genes)
    lengths = [len(names) for names in sets.values()]
    named = [name for names in sets.values() for name in names]
    column = index.get_indexer(pd.Index(named, dtype=object)) if named else np.zeros(0, dtype=int)
    row = np.repeat(np.arange(len(sets)), lengths)
    known = column >= 0
    member = sparse.csr_array(
        (np.ones(int(known.sum())), (row[known], column[known])), shape=(len(sets), len(index)), dtype=np.float64
    )
    size = np.bincount(row[known], minlength=len(sets))
    fits = np.flatnonzero((size >= min_size) & (size <= max_size))
    if not len(fits):
        raise ValueError(_none_fits(sets, index, size, min_size, max_size, what))
    terms = list(sets)
    return Membership([terms[i] for i in fits], member[fits], size[fits], len(sets))


def identifier_kind(names: Iterable[str]) -> str:
    """What kind of names these seem to be, for messages: that of most of them."""
    some = [str(name) for name in names][:_LOOKED_AT]
    count = {kind: sum(bool(pattern.fullmatch(name)) for name in some) for kind, pattern in _KINDS}
    # Every human symbol of capitals alone fits several patterns; the first that most names fit is it.
    best = next((kind for kind, n in count.items() if n > len(some) / 2), None)
    return best or "names of several kinds or none known"


def kinds_in_words(wanted: Iterable[str], there: Iterable[str], whose: str) -> str:
    """What kinds of names two sides seem to have, where they are of different kinds or differ in case; for messages."""
    wanted, there = [str(name) for name in wanted], [str(name) for name in there]
    folded = {name.casefold() for name in there}
    if set(wanted).isdisjoint(there) and any(name.casefold() in folded for name in wanted):
        return " (they differ in upper and lower case)"
    one, other = identifier_kind(wanted), identifier_kind(there)
    return f" (those of the {whose} seem to be {one}, those there {other})" if one != other else ""


def _is_file(text: str) -> bool:
    return Path(text).suffix.lower() in {".gmt", ".txt", ".gz"} or "/" in text or "\\" in text or Path(text).is_file()


def _library(name: str, organism: str) -> dict[str, list[str]]:
    """A library of Enrichr, fetched by gseapy."""
    import gseapy

    try:
        return dict(gseapy.get_library(name, organism=organism))
    except ValueError:
        raise ValueError(
            f"expected the name of an Enrichr library for {organism!r}, or a GMT file; found {name!r}; "
            f"gseapy.get_library_name({organism!r}) lists them"
        ) from None
    except Exception as error:
        raise ConnectionError(
            f"expected the library {name!r} from Enrichr, which needs the network; found {type(error).__name__}; pass a "
            "GMT file, which works without"
        ) from error


def _none_fits(
    sets: Mapping[str, Sequence[str]], index: Any, size: np.ndarray, min_size: int, max_size: int, what: str
) -> str:
    """What to do where no set fits: sizes, or names of another kind."""
    named = list(dict.fromkeys(name for names in sets.values() for name in names))
    there, wanted = identifier_kind(index), identifier_kind(named)
    head = f"expected gene sets with {min_size} to {max_size} of the {len(index)} {what}; found none of {len(sets)}"
    shared = int(np.isin(named, index).sum()) if named else 0
    if shared > 0.05 * len(named):
        largest = f"the largest has {int(size.max())}, both sides seem to be {there}"
        return f"{head} ({largest}); change `min_size` or `max_size`"
    folded = {str(name).casefold() for name in index}
    case = sum(name.casefold() in folded for name in named) - shared
    differ = " and differ in upper and lower case" if case > shared else ""
    return (
        f"{head}: {shared} of the {len(named)} names in the sets are among the {what}, which seem to be {there} "
        f"({few(index, 2)}), those of the sets {wanted} ({few(named, 2)}){differ}; name genes the same way, or take other sets"
    )
