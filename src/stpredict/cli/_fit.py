"""`stpredict fit`: a model from measured sections, or from the tiles of slides and the bulk expression of patients."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.cohorts import Cohort

HELP = "fit a model to measured sections, or to slides with bulk expression, and save it"
EXAMPLE = """stpredict fit sections.h5ad --model ridge --features color-texture --out models/ridge
stpredict fit sections/ --model mlp --features uni2-h --hold-out P1 P2 --checkpoints checkpoints --out models/mlp
stpredict fit tiles/ --model sequoia --expression bulk.csv --by patient --unit fpkm-uq --out models/sequoia"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    from stpredict.cli._arguments import add_compute

    parser.add_argument(
        "objects", type=Path, nargs="+",
        help="AnnData (.h5ad, .zarr) with sections, a folder of them, or a table (.csv, .tsv) with the columns path, sample and "
        "patient. Of several files with one section each, blocks of rows are in memory, see stp.Cohort. With --expression, tiles "
        "of slides as `stpredict features` writes them",
    )  # fmt: skip
    parser.add_argument("--model", default="ridge", help="name of a network, see `stpredict models`")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--features", nargs="+", help="encoders; those that are missing are computed from the pictures")
    parser.add_argument("--target", nargs="+", help="genes, a column of obs, or a slot of obsm; see stp.tl.fit")
    parser.add_argument("--hold-out", nargs="+", default=[], metavar="PATIENT", help="patients that are not trained on")
    parser.add_argument("--hyperparameters", help='a preset ("small", "paper"), or JSON such as \'{"hidden": 64}\'')
    parser.add_argument("--epochs", type=int, help="upper limit of epochs")
    parser.add_argument(
        "--normalize", help="method of stp.pp.normalize where X holds counts; its default when left out"
    )
    parser.add_argument(
        "--checkpoints", type=Path, help="folder for checkpoints: a fit that was killed goes on from there"
    )
    parser.add_argument(
        "--work", type=Path,
        help="folder for copies of sections on disk with what they lacked, features or a normalization; one in the cache when "
        "left out",
    )  # fmt: skip
    parser.add_argument("--expression", type=Path, help="bulk expression (.csv, .tsv, .h5ad), rows × genes")
    parser.add_argument("--by", choices=["slide", "patient"], default="slide", help="what its rows are named after")
    parser.add_argument("--unit", default="fpkm-uq", help="unit of the bulk expression, see stp.pp.normalize")
    parser.add_argument("--n-tokens", type=int, default=100, help="tokens of a slide")
    parser.add_argument("--seed", type=int, default=0)
    add_compute(parser)


def run(options: argparse.Namespace) -> int:
    """Fit the model, save it, and say what it is."""
    import json

    import stpredict as stp
    from stpredict.cli._arguments import compute_options
    from stpredict.core._settings import settings

    settings.progress = False
    compute = compute_options(options)
    text = options.hyperparameters
    hyperparameters = json.loads(text) if text and text.lstrip().startswith("{") else text
    data: Any = _bags(options) if options.expression else _sections(options, compute)
    adata = data.table() if hasattr(data, "table") else data  # of a cohort, with its arrays on disk
    train = None
    if options.hold_out:
        people = adata.obs["patient"].astype(str)
        unknown = sorted(set(options.hold_out) - set(people))
        if unknown:
            raise ValueError(
                f"expected patients of the object to hold out; found {unknown[0]!r}; there are {', '.join(sorted(set(people)))}"
            )
        train = ~people.isin(options.hold_out).to_numpy()
    training: dict[str, Any] = {} if options.epochs is None else {"max_epochs": options.epochs}
    if options.device is not None:
        training["device"] = options.device
    target = (
        options.target[0]
        if options.target and len(options.target) == 1 and options.target[0] not in adata.var_names
        else options.target
    )
    model = stp.tl.fit(
        data, options.model, train,
        features=options.features, target=target, hyperparameters=hyperparameters, training=training or None, path=options.out,
        checkpoint_dir=options.checkpoints, seed=options.seed,
    )  # fmt: skip
    print(f"{model!r} in {options.out}")
    return 0


def _sections(options: argparse.Namespace, compute: dict[str, Any]) -> AnnData | Cohort:
    """Sections with features and normalized expression: those of one file in memory, those of several on disk."""
    from stpredict.cli._sections import Inputs, open_sections, with_inputs
    from stpredict.cohorts import Cohort
    from stpredict.models import get_model

    preset = options.hyperparameters if options.hyperparameters in ("small", "paper") else None
    needs = get_model(options.model).reads(preset)
    inputs = Inputs(
        tuple(options.features or ()),
        bool(needs & {"features", "neighbors", "section_features"}),
        "neighbors" in needs,
        bool(needs & {"cell", "section_cell"}),
        options.normalize,
        compute,
    )
    data = open_sections(options.objects)
    if isinstance(data, Cohort):
        return with_inputs(data, inputs, options.work)
    inputs.add(data)
    return data


def _bags(options: argparse.Namespace) -> AnnData:
    """Slides as bags of tokens, with the expression of their patients."""
    import anndata
    import pandas as pd

    import stpredict as stp
    from stpredict.cli._items import SECTIONS, find_items

    items = [item for where in options.objects for item in find_items(where, SECTIONS)]
    if options.expression.suffix == ".h5ad":
        bulk: Any = anndata.read_h5ad(options.expression)
    else:
        bulk = pd.read_csv(options.expression, index_col=0, sep="," if options.expression.suffix == ".csv" else "\t")
        bulk.index = bulk.index.astype(str)
    encoder = None if not options.features else options.features[0]
    patient = {item.name: item.patient for item in items if item.patient} or None
    bags = stp.pp.bag(
        {item.name: item.path for item in items}, encoder,
        expression=bulk, by=options.by, patient=patient, n_tokens=options.n_tokens, seed=options.seed,
    )  # fmt: skip
    stp.pp.normalize(bags, unit=options.unit)
    return bags
