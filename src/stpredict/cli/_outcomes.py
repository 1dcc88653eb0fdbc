"""`stpredict predict` with a model of an outcome: from the maps of slides to one table of slides."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.cli._items import SECTIONS, TABLES, Item, find_items
from stpredict.cli._main import said

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.tl.outcomes._result import OutcomeResult

_MAPS = "make them first: stpredict predict slides/ --model MODEL_OF_MAPS --out maps/"


def is_outcome(paths: Sequence[Path]) -> bool:
    """Whether a saved model is one of an outcome, as :func:`stpredict.tl.fit_outcome` returns it."""
    found = any((Path(path) / "predictions.csv").is_file() for path in paths)  # those of its folds
    if found and len(paths) > 1:
        raise ValueError(f"expected one model of an outcome; found {len(paths)} models; call once for each")
    return found


def predict_outcomes(options: argparse.Namespace) -> int:
    """Predict the outcome of every map, one in memory at a time; print a line for each, and write the table.

    Each slide is predicted by itself: its number does not depend on which others there are.
    """
    import pandas as pd

    from stpredict.cli._tables import write_table
    from stpredict.tl.outcomes._result import OutcomeResult

    if options.out.suffix not in {".csv", ".tsv"}:
        raise ValueError(
            f"expected a file (.csv, .tsv) as --out for a model of an outcome, which gives a table of slides; found {options.out}"
        )
    if options.out.exists() and not options.overwrite:
        raise FileExistsError(
            f"expected nothing at {options.out}; found a file; name another --out, or pass --overwrite"
        )
    items = find_items(options.slides, SECTIONS)
    if pictures := [item.name for item in items if item.is_slide]:
        raise ValueError(
            f"expected maps of slides for a model of an outcome; found the picture of {pictures[0]}; {_MAPS}"
        )
    model, beside = OutcomeResult.load(options.model[0]), _columns(options.slides, items)
    rows, failed = [], []
    for number, (item, given) in enumerate(zip(items, beside, strict=True), start=1):
        start = time.perf_counter()
        try:
            rows.append(_row(item, given, model, options.device))
            status = "done"
        except Exception as error:  # noqa: BLE001
            # The others are to be done all the same, whatever a library raises for one file.
            failed.append(f"failed: {item.name} ({item.path}): {type(error).__name__}: {said(error)}")
            status = "FAILED"
        print(f"[{number}/{len(items)}] {item.name}: {status}, {time.perf_counter() - start:.1f} s", flush=True)
    if rows:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_table(pd.DataFrame(rows), options.out)
    for text in failed:
        print(text, file=sys.stderr)
    return int(bool(failed))


def _columns(where: Path, items: Sequence[Item]) -> list[dict[str, Any]]:
    """What a table of maps says of each beside its path: covariates that the model reads."""
    if where.suffix.lower() not in TABLES:
        return [{} for _ in items]
    import pandas as pd

    from stpredict.core._files import read_text, separator

    table = pd.read_csv(
        where, sep=separator(read_text(where, "a table"), ",", 2), skipinitialspace=True, index_col=False
    )
    table.columns = [str(name).strip() for name in table.columns]
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _row(item: Item, given: dict[str, Any], model: OutcomeResult, device: str | None) -> dict[str, Any]:
    """Outcome of one slide, with its name and its patient."""
    import pandas as pd
    from anndata import AnnData

    import stpredict as stp
    from stpredict.slots._keys import Key

    shown = _map(item)
    obs = pd.DataFrame({**given, Key.SAMPLE: item.name, Key.PATIENT: _patient(item, shown)}, index=[item.name])
    slide = AnnData(obs=obs)
    stp.tl.predict_outcome(slide, model, maps={item.name: shown}, device=device)
    names = {Key.SAMPLE, Key.PATIENT}
    found = {str(name): value for name, value in slide.obs.iloc[0].items() if name in names or name not in given}
    return {name: found[name] for name in (Key.SAMPLE, Key.PATIENT)} | found


def _map(item: Item) -> AnnData:
    """The map of a slide, with its cells."""
    import stpredict as stp
    from stpredict.cli._objects import read_object
    from stpredict.slots._keys import Key

    adata = read_object(item.path)
    if Key.GRID_ROW not in adata.obs:
        stp.pp.grid(adata)
    return adata


def _patient(item: Item, shown: AnnData) -> str:
    """Whose slide it is, as the table or else the map says."""
    from stpredict.slots._keys import Key

    known: pd.Series = shown.obs.get(Key.PATIENT)
    names = [] if known is None else [str(name) for name in known.dropna().unique()]
    if item.patient:
        return item.patient
    if len(names) != 1:
        raise ValueError(
            f"expected the patient of {item.name}, by which it is known whether the model was trained on it; found "
            f"{len(names)} in the map; name it in a table with the columns path and patient"
        )
    return names[0]
