"""Classes of observations: their names, their codes, and where predictions go."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._checks import check_obs
from stpredict.slots._keys import Key
from stpredict.slots._rows import Rows
from stpredict.targets import Classes
from stpredict.tl.learn.targets._base import Keys, Outputs, TargetSlots

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.training.targets import ClassTarget, Target


class ClassSlots(TargetSlots):
    """A column of `obs`; predictions are probabilities in `obs`, or in `obsm` where there are more than two classes."""

    kind = "classes"
    request = Classes
    names = "classes"

    def resolve(
        self, adata: AnnData, request: Classes, train: np.ndarray, keys: Keys, *, allow_leakage: bool
    ) -> tuple[Target, list[str]]:
        """Read the classes, all of which must be among the training rows."""
        return read_classes(adata, request.key, train), []

    def usable(self, adata: AnnData, request: Classes) -> np.ndarray:
        """Every observation: those of unknown class are seen, and not learned from."""
        return np.ones(adata.n_obs, dtype=bool)

    def read(self, adata: AnnData, request: Classes, target: Target, rows: Rows, keys: Keys) -> np.ndarray:
        """Number of each observation's class (n,) int64, -1 where it is not known."""
        return class_codes(adata, target)[rows.index]  # type: ignore[arg-type]

    def key(self, target: Target) -> str:
        """`obs["{column}_probability"]`, or the slot of `obsm` of that name."""
        return Key.probability(target.key)  # type: ignore[attr-defined]

    def check(self, adata: AnnData, target: Target) -> None:
        """Accept any object: there is no unit to differ in."""

    def columns(self, key: str) -> set[str]:
        """Probability and most probable class."""
        return {key, Key.predicted_class(key)}

    def arrange(self, key: str, outputs: Outputs) -> Outputs:
        """Put the probability of one class into `obs`; of several, the most probable class beside the table."""
        import pandas as pd

        probability = outputs.frames[key]
        if probability.shape[1] == 1:
            return replace(outputs, frames={}, columns=outputs.columns | {key: probability.iloc[:, 0].to_numpy()})
        values = probability.to_numpy()
        known = ~np.isnan(values).any(axis=1)
        names = np.full(len(values), None, dtype=object)
        names[known] = probability.columns.to_numpy()[values[known].argmax(axis=1)]
        chosen = pd.Categorical(names, probability.columns)
        return replace(outputs, frames={key: probability}, columns=outputs.columns | {Key.predicted_class(key): chosen})


def read_classes(adata: AnnData, key: str, train: np.ndarray) -> ClassTarget:
    """Classes of a column of `obs`, all of which must be among the training rows (n_obs,)."""
    import pandas as pd

    from stpredict.training.targets import ClassTarget

    check_obs(adata, key, "name the column with the classes")
    column = adata.obs[key]
    known = column[column.notna()]
    names = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else sorted(known.unique())
    if known.dtype.kind == "f" or len(names) < 2:
        raise ValueError(
            f"expected two or more classes in obs[{key!r}] (boolean, strings or categories); found "
            f"{known.dtype} with {len(names)} values"
        )
    absent = [str(name) for name in names if not (column[train] == name).any()]
    if absent:
        raise ValueError(
            f"expected every class of obs[{key!r}] among the training observations; found none of {few(absent)}; "
            "train on sections that have it, or remove the unused category"
        )
    return ClassTarget(key, tuple(str(name) for name in names))


def class_codes(adata: AnnData, classes: ClassTarget) -> np.ndarray:
    """Number of each observation's class (n_obs,) int64, -1 where it is not known."""
    import pandas as pd

    column = adata.obs[classes.key]
    text = column.astype(object).where(column.notna(), None).map(lambda value: None if value is None else str(value))
    return pd.Index(classes.classes).get_indexer(text).astype(np.int64)
