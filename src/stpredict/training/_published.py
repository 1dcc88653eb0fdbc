"""Published checkpoints as fitted models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.training._fitted import FittedModel

_FILES = ("model.safetensors", "pytorch_model.bin", "model_best.pt", "*.safetensors", "*.pth", "*.pt", "*.bin")
_HEADERS = frozenset({"gene", "genes", "gene_name", "gene_names", "gene_id", "gene_symbol", "symbol"})


def load_published(
    name: str,
    path: str | Path,
    *,
    genes: Iterable[str] | str | Path,
    encoder: str = "uni",
    tile_um: float = 128.0,
    patients: Iterable[str] = (),
    normalization: Mapping[str, Any] | None = None,
) -> FittedModel:
    """Read the published weights of a network as a fitted model.

    Sizes are read from the weights. The model takes raw tokens or features and predicts raw values, log2(FPKM-UQ + 1)
    for the weights of :cite:t:`pizurica2024`; a positional embedding is used where the weights hold one. Networks of
    `"hist"` :cite:p:`li2026` were trained on expression that lay one grid row below the features it belongs to, and on
    features of all 80 × 64 cells, off tissue too: expect maps shifted by a row.

    Parameters
    ----------
    name
        `"sequoia"`, `"slide_transformer"`, `"he2rna"` (on bags), `"hist"` (on grids) or `"triplex"` (on patches, with the
        features of neighbors and sections; version 2 of the published code).
    path
        File with the weights, or a directory with `model.safetensors`, `pytorch_model.bin`, `model_best.pt` or one
        other weight file. Nothing is unpickled.
    genes
        Genes in the order of the outputs: a list, or a text file with one gene per line (of a table, its first column).
    encoder
        Encoder of the tokens, or of the features of a grid; a model on bags reads the bags of its features.
    tile_um
        Side of the tiles behind the tokens or features in µm.
    patients
        Patients the weights were trained on; predictions of these are marked as leaky. With none, every mark is `"unknown"`.
    normalization
        Record of how the target was normalized, to be compared with that of the data; when `None`, log2(FPKM-UQ + 1),
        for `"hist"` log1p of counts per 10,000, or for `"triplex"` that of counts per 10,000 of its genes (whose mean over
        3 x 3 spots it was trained on).

    Returns
    -------
    The model, to pass to :func:`stpredict.tl.predict` or to save.

    Raises
    ------
    FileNotFoundError
        When there are no weights, or no file with the genes.
    KeyError
        When the name is none of those above.
    ValueError
        When a file is damaged, a tensor is missing, unknown or of another shape than the others imply, or the number of
        genes differs from the number of outputs.

    Examples
    --------
    >>> import tempfile, torch
    >>> import stpredict as stp
    >>> shapes = {"conv0": (8, 16, 1), "conv1": (8, 8, 1), "conv2": (2, 8, 1)}
    >>> weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    >>> weights |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     torch.save(weights, f"{directory}/model_best.pt")
    ...     model = stp.training.load_published("he2rna", directory, genes=["ERBB2", "GATA3"], patients=["P1"])
    >>> model.panel, model.network.shape.widths
    (['ERBB2', 'GATA3'], {'tokens': 16})
    """
    import pandas as pd

    from stpredict.core._read_weights import check_finite_weights, read_weights
    from stpredict.core._validate import check_positive, check_unique
    from stpredict.models import INPUTS, build, list_models
    from stpredict.models.base._registry import get_model
    from stpredict.training._fitted import FittedModel, TrainingFacts
    from stpredict.training.targets import ExpressionTarget

    table = list_models()
    if name not in table.index[table["weights"]]:
        raise KeyError(
            f"expected a network with published weights ({', '.join(table.index[table['weights']])}); found {name!r}"
        )
    tile_um = check_positive(tile_um, "tile_um")
    panel = _read_genes(genes)
    check_unique(panel, "genes")
    published = get_model(name).cls.published
    assert published is not None
    file = _find(Path(path))
    state = _strip_prefix(read_weights(file), published.anchor, name)
    check_finite_weights(state, file)
    tree = published.read(state)
    if len(panel) != tree.n_genes:
        raise ValueError(
            f"expected one gene for each of the {tree.n_genes} outputs of the weights; found {len(panel)} genes"
        )
    reads = get_model(name).reads(tree.hyperparameters)
    widths = {each: tree.n_features for each in reads if INPUTS[each].width}
    network = build(name, len(panel), widths, hyperparameters=tree.hyperparameters, seed=0)
    network.load_state_dict(tree.convert(state, network.state_dict()), strict=False)
    record = dict(normalization or published.normalization)
    if record.get("size_factors") == "panel" and record.get("panel") is None:
        record["panel"] = panel
    features = {"encoder": encoder, "tile_um": tile_um, "dim": tree.n_features}
    return FittedModel(
        model=name,
        network=network.eval(),
        target=ExpressionTarget(tuple(panel), record),
        features={"slots": {f"X_{encoder}": features}, "scaling": "global"},
        training=TrainingFacts(sorted({str(patient) for patient in patients}), validated_on="published"),
        history=pd.DataFrame(),
    )


def _strip_prefix(state: Mapping[str, Tensor], anchor: str, name: str) -> dict[str, Tensor]:
    """Keys without what wrappers put before all of them (`module.`, `model.`)."""
    found = [key for key in state if key == anchor or key.endswith(f".{anchor}")]
    if len(found) != 1:
        first = next(iter(sorted(state)), "nothing")
        raise ValueError(f"expected the published weights of {name!r}, with one tensor {anchor}; found {len(found)} of "
                         f"them among {len(state)} tensors (first: {first})")  # fmt: skip
    prefix = found[0].removesuffix(anchor)
    foreign = sorted(key for key in state if not key.startswith(prefix))
    if foreign:
        raise ValueError(f"expected every tensor under {prefix!r}; found {foreign[0]}")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _find(path: Path) -> Path:
    """The weight file of a directory, or the file itself."""
    if not path.is_dir():
        return path
    for pattern in _FILES:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            raise ValueError(
                f"expected one weight file in {path}; found {len(found)} ({found[0].name}, {found[1].name}, …); pass one"
            )
        if found:
            return found[0]
    raise FileNotFoundError(f"expected a weight file in {path} ({', '.join(_FILES)}); found none")


def _read_genes(genes: Iterable[str] | str | Path) -> list[str]:
    """Gene names as given, or from the lines of a file."""
    if not isinstance(genes, str | Path):
        return [str(gene) for gene in genes]
    from stpredict.core._files import read_text

    path = Path(genes)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with one gene per line at {path}; found none")
    lines = [
        re.split(r"[,\t]", line)[0].strip().strip("\"'") for line in read_text(path, "one gene per line").split("\n")
    ]
    lines = [line for line in lines if line]
    return lines[1:] if lines and lines[0].lower() in _HEADERS else lines
