"""Every slot name, default and derived, in one place."""

from __future__ import annotations


class Key:
    """Names of the slots that the package reads and writes."""

    SAMPLE = "sample"
    PATIENT = "patient"
    SPATIAL = "spatial"
    ARRAY_ROW = "array_row"
    ARRAY_COL = "array_col"
    IN_TISSUE = "in_tissue"
    LABEL = "label"
    COUNTS = "counts"
    EXPECTED = "expected"
    PREDICTED = "predicted"
    DOMAIN = "domain"
    SELECTED = "selected"
    UNS = "stpredict"
    TABLE = "table"

    @staticmethod
    def features(encoder: str) -> str:
        """Image features: `obsm["X_{encoder}"]`."""
        return f"X_{encoder}"

    @staticmethod
    def std(key: str) -> str:
        """Standard deviation that belongs to a prediction."""
        return f"{key}_std"

    @staticmethod
    def leaky(key: str) -> str:
        """Boolean column of `obs`: the model that predicted this observation was trained on its patient."""
        return f"{key}_leaky"
