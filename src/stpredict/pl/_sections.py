"""Which sections a figure shows, and how much a map of one of them varies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_unique
from stpredict.pl._style import Section, find_section
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table

if TYPE_CHECKING:
    from stpredict.slots._container import Container

ALL = "all"
_CLIPPED = 0.01  # share of the values beyond either end of a range, so that one spot does not make it


def find_sections(
    data: Container,
    sample: str | Sequence[str] | None,
    *,
    spot_size: float | None,
    sample_key: str,
    table_key: str,
) -> list[Section]:
    """The sections asked for, by name or `"all"`; with `None` the first, and a note where there are others."""
    adata = get_table(data, table_key)
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    names = list(dict.fromkeys(adata.obs[sample_key].astype(str)))
    if sample is None:
        if len(names) > 1:
            warnings.warn(
                f"the figure shows section {names[0]!r}, the first of {len(names)}; name others with `sample=`, or pass "
                "sample='all'",
                stacklevel=3,
            )
        chosen = names[:1]
    elif isinstance(sample, str):
        chosen = names if sample == ALL and ALL not in names else [sample]
    else:
        chosen = [str(name) for name in sample]
        check_unique(chosen, "names in `sample`")
        if not chosen:
            raise ValueError("expected at least one section in `sample`; found none; name some, or pass sample='all'")
    where = {"spot_size": spot_size, "sample_key": sample_key, "table_key": table_key}
    return [find_section(data, sample=name, **where) for name in chosen or [None]]  # type: ignore[arg-type]


def usual_range(values: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile of the finite values (n,); NaN without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [_CLIPPED, 1 - _CLIPPED])
    return float(low), float(high)


def range_text(low: float, high: float) -> str:
    """A range in as few digits as tell its ends apart."""
    if not np.isfinite([low, high]).all():
        return "no values"
    digits = 3
    while low != high and digits < 12 and f"{low:.{digits}g}" == f"{high:.{digits}g}":
        digits += 1
    return f"{low:.{digits}g} to {high:.{digits}g}".replace("-", "−")  # the minus of the colorbars
