"""Every slot name, default and derived, in one place."""

from __future__ import annotations


class Key:
    """Names of the slots that the package reads and writes."""

    SAMPLE = "sample"
    PATIENT = "patient"
    SPATIAL = "spatial"
    ARRAY_ROW = "array_row"
    ARRAY_COL = "array_col"
    GRID_ROW = "grid_row"
    GRID_COL = "grid_col"
    GRID = "grid"
    GRID_ROW = "grid_row"
    GRID_COL = "grid_col"
    IN_TISSUE = "in_tissue"
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
    def leaky(key: str) -> str:
        """Boolean column of `obs`: the model that predicted this observation was trained on its patient."""
        return f"{key}_leaky"
