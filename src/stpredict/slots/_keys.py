"""Every slot name, default and derived, in one place."""

from __future__ import annotations


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
    EXPECTED = "expected"
    PREDICTED = "predicted"
    DOMAIN = "domain"
    SELECTED = "selected"
    TILE_ID = "tile_id"
    TIME = "time"
    EVENT = "event"
    RISK = "risk"
    UNS = "stpredict"
    TABLE = "table"

    @staticmethod
    def features(encoder: str) -> str:
        """Image features: `obsm["X_{encoder}"]`."""
        return f"X_{encoder}"

    @staticmethod
    def tiles(encoder: str) -> str:
        """Table of a slide's tiles with their features, as lazyslide names it."""
        return f"{encoder}_tiles"

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
    def probability(label: str) -> str:
        """Predicted probability of a class."""
        return f"{label}_probability"

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
    def panel(key: str) -> str:
        """Column of `obs` that ties every row of a prediction to the genes in its record."""
        return f"{key}_panel"

    @staticmethod
    def conformal(key: str) -> str:
        """Record of the bounds of a prediction."""
        return f"{key}_conformal"

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
