"""Names of gene sets as they fit into a figure."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_ACCESSION = re.compile(r"\s*(\((GO|R-HSA|WP|hsa):?[\w-]*\)|Homo sapiens hsa\d+)$")


def shown_terms(terms: Sequence[str], longest: int = 44) -> list[str]:
    """Names without accessions, without what all of them begin with ("HALLMARK_"), and with blanks; cut to a length."""
    names = [_ACCESSION.sub("", str(term)) for term in terms]
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    start = common.rfind("_") + 1
    names = [name[start:].replace("_", " ") for name in names]
    cut = [name if len(name) <= longest else name[: longest - 1].rstrip() + "…" for name in names]
    # Where names begin alike, their ends tell them apart.
    alike = {short for short in cut if len({name for name, own in zip(names, cut, strict=True) if own == short}) > 1}
    end = longest // 2
    return [
        f"{name[: longest - end - 1].rstrip()}…{name[-end:].lstrip()}"
        if short in alike and len(name) > longest
        else short
        for name, short in zip(names, cut, strict=True)
    ]


def shown_representatives(table: pd.DataFrame, terms: Sequence[str]) -> list[str]:
    """Names of terms as they are shown, with the number of similar ones that each stands for, in any list of a table."""
    names = shown_terms(terms)
    if "stands_for" not in table:
        return names
    most = table.groupby("term", observed=True)["stands_for"].max()
    return [f"{name} (+{most[term]})" if most[term] else name for name, term in zip(names, terms, strict=True)]
