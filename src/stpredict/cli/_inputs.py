"""What a model reads, computed for a slide or for sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

#: Inputs that follow from the tiles of a slide and their pictures.
_FROM_SLIDES = {
    "features", "tokens", "token_size", "neighbors", "neighbor_mask", "section_features", "section_positions",
    "section_cell", "cell", "positions", "patches", "gene_table", "counts", "size_factor",
}  # fmt: skip
_TABLE_ENCODER = "color-statistics"  # whose six numbers cost nothing, where a network reads the pixels itself


@lru_cache(maxsize=4)
def load_models(paths: tuple[str, ...], digests: tuple[str, ...]) -> list[FittedModel]:
    """Saved models, read once by each process; their digests tell whether they were replaced since."""
    from stpredict.training import FittedModel

    return [FittedModel.load(path) for path in paths]


def model_digests(paths: Sequence[str]) -> tuple[str, ...]:
    """What the configurations of saved models say of all of their files."""
    from stpredict.training._digests import read_config

    return tuple(str(read_config(Path(path))["digest"]) for path in paths)


def check_models(models: Sequence[FittedModel], weights: dict[str, str]) -> None:
    """Raise before the first slide where models cannot predict one: what they read, and how it was made.

    Raises
    ------
    ValueError
        When an input does not follow from a slide, features are of no registered encoder, or of other weights.
    """
    from stpredict.encoders import get_encoder
    from stpredict.tl.learn.targets._base import slots_of

    for model in models:
        if "tokens" in model.network.needs and not slots_of(model.target.kind).maps:
            raise ValueError(
                f"expected a model whose predictions can be mapped; found one of {model.target.kind.replace('_', '-')} of whole "
                "slides; call stpredict features, and in Python stp.tl.predict(stp.pp.bag(tables), model)"
            )
        unknown = sorted(model.network.needs - _FROM_SLIDES)
        if unknown:
            raise ValueError(
                f"expected a model whose inputs follow from the picture of a slide; found {model.model!r}, which reads "
                f"{', '.join(unknown)}; compute these in Python and call stp.tl.predict"
            )
        for key, entry in model.features["slots"].items():
            name = str(entry.get("encoder", key.removeprefix("X_")))
            found = get_encoder(name, weights.get(name)).fingerprint
            if entry.get("fingerprint") not in (None, found):
                raise ValueError(
                    f"expected the weights of {name!r} that the model was fitted with; found others; name their file by "
                    f"--weights {name}=FILE"
                )


def prepare_slide(
    slide: SpatialData, models: Sequence[FittedModel], tiles: dict[str, Any], compute: dict[str, Any]
) -> AnnData:
    """Lay the tiles of some models over the tissue of a slide, and compute all that they read.

    Parameters
    ----------
    slide
        Slide of :func:`stpredict.io.open_slide`; changed.
    models
        Models of the same inputs.
    tiles
        Options of :func:`stpredict.cli._slides.lay_tiles`.
    compute
        `weights` by encoder, `device` and `batch_size`.

    Returns
    -------
    The table of the tiles.
    """
    import stpredict as stp
    from stpredict.cli._slides import lay_tiles

    first, slots = models[0], dict(models[0].features["slots"])
    size = {"like": list(models)} if slots else {"tile_um": float(first.network.config.patch_um)}
    lay_tiles(slide, tiles, **size)
    tables = {}
    for key, entry in (slots or {f"X_{_TABLE_ENCODER}": {}}).items():
        name = str(entry.get("encoder", key.removeprefix("X_")))
        stp.pp.image_features(slide, name, key_added=key, **_options(name, compute))
        tables[key] = slide.tables[f"{key.removeprefix('X_')}_tiles"]
    table, *others = tables.values()
    for key, other in list(tables.items())[1:]:
        table.obsm[key] = other.X
        table.uns["stpredict"] = {**table.uns["stpredict"], key: other.uns["stpredict"][key]}
    _beside(table, models, compute)
    return table


def prepare_sections(data: Container, models: Sequence[FittedModel], compute: dict[str, Any]) -> None:
    """Compute what some models read of sections, and is not there, from the pictures that the object holds or names."""
    from stpredict.slots._container import get_table
    from stpredict.slots._keys import Key

    for key, entry in models[0].features["slots"].items():
        if Key.bag(key) not in get_table(data, Key.TABLE).obsm:
            compute_features(data, key, entry, compute)
    _beside(data, models, compute)


def compute_features(
    data: Container, key: str, entry: Mapping[str, Any], compute: dict[str, Any], *, neighbors: bool = False
) -> None:
    """Compute features of sections where their slot is empty, as an entry says, and where wanted those of the tiles around."""
    import stpredict as stp
    from stpredict.slots._container import get_table
    from stpredict.slots._features import feature_matrix
    from stpredict.slots._keys import Key

    adata = get_table(data, Key.TABLE)
    name = str(entry.get("encoder", key.removeprefix("X_")))
    if feature_matrix(adata, key) is None:
        options = {option: entry[option] for option in ("tile_um", "context") if option in entry}
        with_picture(data, name, key_added=key, **options, **_options(name, compute))
    if neighbors and Key.neighbors(key) not in adata.obsm:
        stp.pp.neighbor_features(data, name, tile_um=entry.get("tile_um"), key_added=key, **_options(name, compute))


def with_picture(data: Container, encoder: str, **options: Any) -> None:
    """Compute features of sections; where there is no picture, say what is to be done beyond the shell."""
    import stpredict as stp

    try:
        stp.pp.image_features(data, encoder, **options)
    except KeyError as error:
        raise KeyError(
            f"expected features of {encoder!r}, or all that they are computed from: {error.args[0]}; in Python: "
            f"stp.pp.image_features(data, {encoder!r}, image=FILE), and write the object again"
        ) from error


def _beside(data: Container, models: Sequence[FittedModel], compute: dict[str, Any]) -> None:
    """What lies beside the features: those of the tiles around, and places in a grid."""
    import stpredict as stp
    from stpredict.slots._container import get_table
    from stpredict.slots._keys import Key

    needs = frozenset().union(*(model.network.needs for model in models))
    if needs & {"cell", "section_cell"} and Key.GRID_ROW not in get_table(data, Key.TABLE).obs:
        stp.pp.grid(data)
    for key, entry in models[0].features["slots"].items() if "neighbors" in needs else ():
        compute_features(data, key, entry, compute, neighbors=True)


def _options(encoder: str, compute: dict[str, Any]) -> dict[str, Any]:
    options = {"weights": compute["weights"].get(encoder), "device": compute.get("device")}
    return options | ({"batch_size": compute["batch_size"]} if compute.get("batch_size") else {})
