"""Every slot name, default and derived, in one place."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

_STORABLE = re.compile(r"(?!__)[\w-][\w.-]*")
_RESERVED = frozenset({"_index"})  # what stores call the names of rows


class Key:
    """Names of the slots that the package reads and writes."""

    SAMPLE = "sample"
    PATIENT = "patient"
    SPATIAL = "spatial"
    ARRAY_ROW = "array_row"
    ARRAY_COL = "array_col"
    GRID = "grid"
    GRID_ROW = "grid_row"
    GRID_COL = "grid_col"
    IN_TISSUE = "in_tissue"
    MEASURED = "measured"
    UNIT = "unit"
    LABEL = "label"
    COUNTS = "counts"
    DEPTH = "depth"
    EXPECTED = "expected"
    PREDICTED = "predicted"
    DOMAIN = "domain"
    SELECTED = "selected"
    TILE_ID = "tile_id"
    TIME = "time"
    EVENT = "event"
    RISK = "risk"
    UNS = "stpredict"
    PREDICTION = "prediction"  # record of a table that holds nothing but a prediction
    TABLE = "table"
    GENE_TABLE = "gene_table"
    CHROM = "chrom"
    TSS = "tss"
    STRAND = "strand"
    SEQUENCE = "sequence"
    SEQUENCE_DIGEST = "sequence_digest"
    SEQUENCE_MASK = "sequence_mask"
    SEQUENCE_FEATURES = "sequence_features"
    SIGNALS = "signals"
    GENE_FEATURES = "gene_features"
    PROMPT_IDS = "prompt_ids"
    DESCRIPTORS = "descriptors"

    @staticmethod
    def features(encoder: str) -> str:
        """Image features: `obsm["X_{encoder}"]`."""
        return f"X_{storable(encoder)}"

    @staticmethod
    def tiles(encoder: str) -> str:
        """Table of a slide's tiles with their features, as lazyslide names it."""
        return f"{storable(encoder)}_tiles"

    @staticmethod
    def bag(features: str) -> str:
        """Tokens of each slide that were made from the features of its tiles: `obsm["X_{encoder}_bag"]`."""
        return f"{features}_bag"

    @staticmethod
    def bag_size(features: str) -> str:
        """Number of tiles behind each token, 0 for padding."""
        return f"{features}_bag_size"

    @staticmethod
    def neighbors(features: str) -> str:
        """Features of the tiles around each observation: `obsm["X_{encoder}_neighbors"]` (n, n_neighbors, d)."""
        return f"{features}_neighbors"

    @staticmethod
    def neighbor_mask(features: str) -> str:
        """Which of these tiles exist: `obsm["X_{encoder}_neighbor_mask"]` (n, n_neighbors)."""
        return f"{features}_neighbor_mask"

    @staticmethod
    def edges(features: str) -> str:
        """Features of the edges in the tiles around each observation: `obsm["X_{encoder}_edges"]` (n, n_neighbors, d)."""
        return f"{features}_edges"

    @staticmethod
    def nuclei_drawn(features: str) -> str:
        """Features of the nuclei in the tiles around each observation: `obsm["X_{encoder}_nuclei"]` (n, n_neighbors, d)."""
        return f"{features}_nuclei"

    @staticmethod
    def boundary_mask(features: str) -> str:
        """Which of these tiles exist: `obsm["X_{encoder}_boundary_mask"]` (n, n_neighbors)."""
        return f"{features}_boundary_mask"

    @staticmethod
    def probability(label: str) -> str:
        """Predicted probability of a class."""
        return f"{storable(label)}_probability"

    @staticmethod
    def attribution(gene: str) -> str:
        """Column of `obs` with the attribution of a gene."""
        return f"attribution_{storable(gene)}"

    @staticmethod
    def fold(key: str) -> str:
        """Column of `obs` with the fold that predicted an observation."""
        return f"{key}_fold"

    @staticmethod
    def baseline(key: str, name: str) -> str:
        """Prediction of a baseline beside a prediction."""
        return f"{key}_baseline_{name}"

    @staticmethod
    def std(key: str) -> str:
        """Standard deviation that belongs to a prediction."""
        return f"{key}_std"

    @staticmethod
    def samples(key: str) -> str:
        """Samples of a prediction (n_obs, n_samples, n_genes)."""
        return f"{key}_samples"

    @staticmethod
    def quantiles(key: str) -> str:
        """Quantiles of these samples (n_obs, n_quantiles, n_genes)."""
        return f"{key}_quantiles"

    @staticmethod
    def panel(key: str) -> str:
        """Column of `obs` that ties every row of a prediction to the genes in its record."""
        return f"{key}_panel"

    @staticmethod
    def conformal(key: str) -> str:
        """Record of the bounds of a prediction."""
        return f"{key}_conformal"

    @staticmethod
    def seen(key: str) -> str:
        """Boolean column of `obs`: the network that describes this gene was trained on its chromosome."""
        return f"{key}_seen"

    @staticmethod
    def leaky(key: str) -> str:
        """Boolean column of `obs`: the model that predicted this observation was trained on its patient."""
        return f"{key}_leaky"

    @staticmethod
    def lower(key: str) -> str:
        """Lower bounds of a prediction."""
        return f"{key}_lower"

    @staticmethod
    def upper(key: str) -> str:
        """Upper bounds of a prediction."""
        return f"{key}_upper"

    @staticmethod
    def pca(key: str) -> str:
        """Principal components of a prediction."""
        return f"{key}_pca"

    @staticmethod
    def embedded(key: str, side: str) -> str:
        """Embeddings of the images or of the genes in their common space: `"{key}_image"`, `"{key}_genes"`."""
        return f"{key}_{side}"

    @staticmethod
    def colors(key: str) -> str:
        """Entry of `uns` with a color per category of a column of `obs`, as scanpy has it."""
        return f"{key}_colors"

    @staticmethod
    def group(key: str) -> str:
        """Column of `obs` with the group of a risk."""
        return f"{key}_group"

    @staticmethod
    def n_windows(key: str) -> str:
        """Column of `obs` with the number of windows behind each tile of a map."""
        return f"{key}_n_windows"

    @staticmethod
    def partial(key: str) -> str:
        """Column of `obs`: only windows with few tiles cover this tile of a map."""
        return f"{key}_partial"

    @staticmethod
    def predicted_class(key: str) -> str:
        """Column of `obs` with the most probable class, beside probabilities in `key`."""
        return f"{key.removesuffix('_probability')}_predicted"


def storable(name: str) -> str:
    """A name that h5ad, Zarr and SpatialData accept as a key: itself, or what is left of it.

    Letters of every script, digits, `_`, `-` and `.` stay; what else there is becomes one `_` between words.
    """
    text = unicodedata.normalize("NFC", str(name))
    if _STORABLE.fullmatch(text) and text not in _RESERVED:
        return text
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "unnamed"


def distinct(names: Iterable[str]) -> dict[str, str]:
    """A storable name of each name; where two would be the same, or differ in case only, the later one gets a number."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(map(str, names)):
        base, number = storable(name), 1
        key = base
        while key.casefold() in taken:
            number += 1
            key = f"{base}_{number}"
        found[name] = key
        taken.add(key.casefold())
    return found


#: Columns of `obs` that calls read to know what an observation is.
_COLUMNS = frozenset(
    {Key.SAMPLE, Key.PATIENT, Key.MEASURED, Key.IN_TISSUE, Key.DEPTH, Key.ARRAY_ROW, Key.ARRAY_COL, Key.UNIT}
)


def check_key(key: str | None, what: str = "key_added") -> None:
    """Raise `ValueError` for the name of a slot that some store would refuse; nothing for `None`."""
    if key is not None and storable(key) != key:
        raise ValueError(
            f"expected {what} made of letters, digits, '_', '-' and '.', which every store accepts; found {key!r}; pass "
            f"{what}={storable(key)!r}"
        )


def check_column(key: str, what: str = "key_added") -> None:
    """Raise `ValueError` for a name of a column of `obs` that some store would refuse, or that has a meaning of its own."""
    check_key(key, what)
    if key in _COLUMNS:
        raise ValueError(
            f"expected {what} other than columns of obs that say what an observation is; found {key!r}; take another name"
        )


def escaped(name: str) -> str:
    """The name of a section as a key: itself, but for slashes and for names that stores keep for themselves."""
    text = str(name).replace("%", "%25").replace("/", "%2F").replace("\\", "%5C")
    if not text:
        return "%"
    return text if text[0] != "." and not text.startswith("__") else f"%{ord(text[0]):02X}{text[1:]}"


def unescaped(key: str) -> str:
    """The name behind a key of :func:`escaped`."""
    return "" if key == "%" else unquote(key)
