"""`stpredict evaluate`: scores of a prediction against what was measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

HELP = "score predictions of measured sections, beside their baselines and the noise ceiling"
EXAMPLE = """stpredict evaluate predicted.h5ad --out scores.csv
stpredict evaluate sections/ --model models/ridge --out scores.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from stpredict.cli._arguments import add_compute

    parser.add_argument(
        "objects", type=Path, nargs="+",
        help="AnnData (.h5ad, .zarr) with measured expression, a folder of them, or a table (.csv, .tsv) with the columns path, "
        "sample and patient; of several files one section is in memory at a time",
    )  # fmt: skip
    parser.add_argument("--model", nargs="+", help="saved models to predict with first (several are averaged)")
    parser.add_argument("--key", nargs="+", help="slots of the predictions; the main one when left out")
    parser.add_argument("--metrics", nargs="+", help="metrics of stp.tl.evaluate; all of its default when left out")
    parser.add_argument("--out", type=Path, help="file for the table of scores per gene and section (.csv, .tsv)")
    parser.add_argument("--seed", type=int, default=0)
    add_compute(parser)


def run(options: argparse.Namespace) -> int:
    """Print the summary, and write the scores."""
    import stpredict as stp
    from stpredict.cli._arguments import compute_options
    from stpredict.cli._inputs import prepare_sections
    from stpredict.cli._sections import Prepared, open_sections
    from stpredict.cli._tables import write_table
    from stpredict.cohorts import Cohort
    from stpredict.core._settings import settings
    from stpredict.report._scale import normalize_like
    from stpredict.slots._container import get_table
    from stpredict.slots._prediction import main_predictions
    from stpredict.tl.learn.targets._base import slots_of
    from stpredict.training import FittedModel

    settings.progress = False
    compute = compute_options(options)
    models = [FittedModel.load(path) for path in options.model or []]
    method = next((part.normalization["method"] for part in models if "method" in part.normalization), None)

    def prepare(adata: AnnData) -> None:
        normalize_like(adata, method)
        if models:
            prepare_sections(adata, models, compute)
            stp.tl.predict(adata, models, device=options.device, progress=False)

    data = open_sections(options.objects)
    if isinstance(data, Cohort):
        first = get_table(data[data.names[0]], data.table_key)
        data = Prepared(data, prepare)
    else:
        prepare(data)
        first = data
    found = [slots_of(models[0].target.kind).key(models[0].target)] if models else main_predictions(first)[:1]
    metrics = {"metrics": options.metrics} if options.metrics else {}
    scores = stp.tl.evaluate(data, options.key or found or ["predicted"], seed=options.seed, **metrics)
    if options.out is not None:
        write_table(scores, options.out)
    print(stp.tl.summarize(scores, seed=options.seed))
    return 0
