"""Score parts of a table here, one after the other, or each on a worker, with what belongs to its section alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._engine import Call, run_calls
from stpredict.slots._keys import Key
from stpredict.slots._parts import Part
from stpredict.tl.judge._lines import Line
from stpredict.tl.judge._part_scores import Asked, score_part

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._truth import Truth


def score_parts(
    parts: Sequence[tuple[Part, np.ndarray]],
    adata: AnnData,
    genes: Sequence[str],
    target: Truth,
    lines: Mapping[str, Line],
    asked: Asked,
    step: Callable[[], Any],
    client: Any,
) -> Iterator[dict[str, pd.DataFrame]]:
    """Scores by label of each part, given with the rows (n,) that are scored, in their order; see :func:`score_part`.

    Workers of a client get the observations of the section of a part, and of them what is scored: no pictures, no features.
    """
    if client is None:
        for part, rows in parts:
            yield score_part(adata, rows, str(part.sample), genes, target, lines, asked, step)
        return
    sample = adata.obs[asked.sample_key].astype(str).to_numpy()
    calls = (_sent(adata, sample, part, rows, genes, target, lines, asked) for part, rows in parts)
    for (_, rows), found in zip(parts, run_calls(client, calls), strict=True):
        for _ in range(len(lines) * len(asked.blocks(len(rows), genes))):
            step()
        yield found


def _sent(
    adata: AnnData,
    sample: np.ndarray,
    part: Part,
    rows: np.ndarray,
    genes: Sequence[str],
    target: Truth,
    lines: Mapping[str, Line],
    asked: Asked,
) -> Call:
    """The call that scores a part, with the rows of its section alone."""
    at = np.flatnonzero(sample == str(part.sample))
    own = _section(adata, at, target.layer)
    values = None if target.slot is None else target._values.iloc[at]
    given = None if asked.given is None else (asked.given[0][at], asked.given[1])
    return score_part, {
        "adata": own,
        "rows": np.searchsorted(at, rows),
        "sample": str(part.sample),
        "genes": list(genes),
        "target": replace(target, adata=own, _values=values),
        "lines": {label: _line(line, at) for label, line in lines.items()},
        "asked": replace(asked, given=given),
        "step": _nothing,
    }


def _section(adata: AnnData, at: np.ndarray, layer: str | None) -> AnnData:
    """Some observations with what is measured of them, their places and the records."""
    import pandas as pd
    from anndata import AnnData

    return AnnData(
        None if adata.X is None else adata.X[at],
        obs=adata.obs.iloc[at],
        var=pd.DataFrame(index=adata.var_names),
        layers={name: adata.layers[name][at] for name in {Key.COUNTS, layer} if name in adata.layers},
        obsm={Key.SPATIAL: adata.obsm[Key.SPATIAL][at]} if Key.SPATIAL in adata.obsm else None,
        uns={Key.UNS: adata.uns[Key.UNS]} if Key.UNS in adata.uns else None,
    )


def _line(line: Line, at: np.ndarray) -> Line:
    samples = line.samples
    if samples is not None and isinstance(samples.values, np.ndarray):
        samples = replace(samples, values=samples.values[samples.rows[at]], rows=np.arange(len(at)))
    elif samples is not None:  # in a store, which the workers open
        samples = replace(samples, rows=samples.rows[at])
    return line._replace(frame=line.frame.iloc[at], leaky=line.leaky[at], samples=samples)


def _nothing() -> None:
    """Nobody looks at the progress of a worker."""
