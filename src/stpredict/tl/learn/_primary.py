"""Which genes of a panel are wanted, where networks train on more."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stpredict.slots._rows import Rows
    from stpredict.tl.learn._task import Task
    from stpredict.training import TrainConfig
    from stpredict.training.targets import Target


def auxiliary_of(tasks: Iterable[Task]) -> TrainConfig | None:
    """Settings of the tasks with auxiliary genes, which have to agree on the primary ones; `None` without any.

    Raises
    ------
    ValueError
        When two of them ask for other primary genes: then they would be scored on other genes.
    """
    found = [task.config for task in tasks if task.config.auxiliary is not None]
    asked = {(config.n_primary, None if config.primary is None else tuple(config.primary)) for config in found}
    if len(asked) > 1:
        raise ValueError(
            f"expected one n_primary, and one list of primary genes, for all models of a call, which are scored on them; found "
            f"{len(asked)} different ones; call once for each"
        )
    return found[0] if found else None


def primary_first(
    target: Target, values: np.ndarray, rows: Rows, config: TrainConfig | None
) -> tuple[Target, np.ndarray, int | None]:
    """The target and the values (n, …) of training rows with the primary genes first, and the number of these.

    Without auxiliary genes both are as they were, and the number is `None`: every gene is wanted.
    """
    if config is None:
        return target, values, None
    from stpredict.training import ArraySet
    from stpredict.training._auxiliary import order_genes

    measured = ArraySet(rows.section, rows.section, target=values, kind=target, labeled=rows.measured).only_labeled()
    order, n_primary = order_genes(target, measured.target, measured.section, config)
    return target.part(order), target.values_of(values, order), n_primary
