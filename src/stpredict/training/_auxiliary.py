"""Training on more genes than are wanted: their order, their weights, and what is to be said of it afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from stpredict.core._validate import few
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet
from stpredict.training._gene_weights import Weighted, soft_mask
from stpredict.training._validation import inner_sides

if TYPE_CHECKING:
    import pandas as pd
    from lightning.pytorch import Callback

    from stpredict.models import ModelInfo, Stage
    from stpredict.training.targets import Target

_DIGITS = 4  # of weights in the facts


def order_genes(kind: Target, values: Any, section: np.ndarray, config: TrainConfig) -> tuple[np.ndarray, int]:
    """Put the primary genes first, in the order of the panel, and the others behind them, the most variable one first.

    Parameters
    ----------
    kind
        Target of the whole panel.
    values
        Values of measured training rows (n, …), in memory or in files, which are read section by section.
    section
        Their sections (n,).
    config
        Settings: `primary` names the primary genes, or `n_primary` is their number.

    Returns
    -------
    Places of the genes (n_genes,) in the panel, and the number of primary ones.

    Raises
    ------
    KeyError
        When a primary gene is not in the panel.
    TypeError
        When the target is none of genes.
    ValueError
        When no gene is left to be auxiliary.
    """
    names = kind.names
    score = kind.variability(values, section)
    ranked = np.argsort(-score, kind="stable")
    if config.primary is None:
        primary = np.sort(ranked[: config.n_primary])
    else:
        place = {name: number for number, name in enumerate(names)}
        missing = [name for name in config.primary if name not in place]
        if missing:
            raise KeyError(
                f"expected primary genes of the panel of {len(names)} genes; found {few(missing)}, which are not in it; pass a "
                "target with them"
            )
        primary = np.array(sorted({place[name] for name in config.primary}))
    if len(primary) >= len(names):
        raise ValueError(
            f"expected a panel with auxiliary genes beside the {len(primary)} primary ones; found {len(names)} genes in all; "
            "pass a target with more genes, a smaller n_primary, or auxiliary=None"
        )
    return np.concatenate([primary, ranked[~np.isin(ranked, primary)]]), len(primary)


def check_weighs_genes(info: ModelInfo, config: TrainConfig, of_genes: bool = True) -> None:
    """Raise where auxiliary genes are asked for, and the network has no use for their weights or the target no genes."""
    if config.auxiliary is None:
        return
    what = f"auxiliary={config.auxiliary!r}"
    if not of_genes:
        raise ValueError(f"expected {what} with a target of genes; found another one; leave auxiliary out")
    if info.cls.closed_form or not info.cls.weighs_genes:
        from stpredict.models import get_model, list_models

        without = [
            name for name in list_models().index if (cls := get_model(name).cls).closed_form or not cls.weighs_genes
        ]
        raise ValueError(
            f"expected a network that is trained in steps on the loss of each gene for {what}; found {info.name!r}; those "
            f"without such a loss are {', '.join(without)}; leave auxiliary out, or take another network"
        )


class AuxiliaryTraining:
    """The weights of the genes during one fit.

    Parameters
    ----------
    data
        Training rows whose first `data.n_primary` outputs are the primary genes.
    config
        Settings.
    device
        Device to train on.

    Raises
    ------
    ValueError
        When the rows do not say which outputs are primary.
    """

    def __init__(self, data: ArraySet, config: TrainConfig, device: torch.device) -> None:
        if data.n_primary is None or data.kind is None:
            raise ValueError(
                f"expected rows with n_primary, the number of outputs that are wanted, for auxiliary={config.auxiliary!r}; "
                "found none; order the genes with stpredict.training.with_primary(data, config)"
            )
        self.config, self.device, self.n_primary = config, device, data.n_primary
        self.n_auxiliary = data.n_outputs - data.n_primary
        first = torch.cat([torch.ones(self.n_primary), torch.zeros(self.n_auxiliary)])
        cut = torch.tensor(float("inf") if config.auxiliary == "all" else config.cut_start)
        self.cut: float | None = None if config.auxiliary == "all" else config.cut_start
        #: Target of the rows that are trained on, and of those that judge: there the primary genes alone count.
        self.trained = Weighted(data.kind, self._weight(cut).to(device), self.n_primary, config.gene_loss)
        self.judged = Weighted(data.kind, first.to(device), self.n_primary, config.gene_loss)
        self.tuning: ArraySet | None = None
        self.tuned_on = "none"
        self.same_rows = False

    def divide(self, train: ArraySet, validation: ArraySet | None, seed: int) -> tuple[ArraySet, ArraySet | None]:
        """Give both sides their weights; set rows aside to tune the cut on, other ones than those that stop training."""
        validation = None if validation is None else self.judging(validation)
        if self.config.auxiliary == "dkgsb":
            train, held_out, self.tuned_on = inner_sides(train, self.config.validation_fraction, seed + 1)
            if held_out is not None:
                self.tuning = self.judging(held_out.only_labeled())
            elif validation is not None:
                self.tuning, self.same_rows = validation.only_labeled(), True
            else:
                raise ValueError(
                    f"expected enough training rows to tune the cut of auxiliary='dkgsb' on some of them; found {len(train)}"
                )
        return self.training(train), validation

    def training(self, data: ArraySet) -> ArraySet:
        """Rows whose loss has the weights."""
        return replace(data, kind=self.trained)  # type: ignore[arg-type]

    def judging(self, data: ArraySet) -> ArraySet:
        """Rows whose loss is that of the primary genes."""
        return replace(data, kind=self.judged)  # type: ignore[arg-type]

    def callbacks(self, train: ArraySet, stage: Stage, seed: int) -> list[Callback]:
        """What moves the cut while a stage is trained; nothing once it was chosen."""
        if self.tuning is None or not stage.labeled:
            return []
        from stpredict.training._cut import CutTuner

        return [
            CutTuner(self.config, train, self.tuning, self.trained, stage=stage, seed=seed, device=self.device)
        ]  # fmt: skip

    def settle(self, history: pd.DataFrame, n_epochs: int) -> None:
        """Keep the cut of the epoch whose weights are kept, for good."""
        self.tuning = None
        if "cut" in history:
            self.cut = float(history["cut"].iloc[n_epochs - 1])
            self.trained.weight = self._weight(torch.tensor(self.cut)).to(self.device)

    def facts(self, stopped_on: str) -> dict[str, Any]:
        """What the facts of a training say."""
        kind = self.trained.base
        weight = self.trained.weight[self.n_primary :].cpu().numpy().astype(float)
        found: dict[str, Any] = {
            "mode": self.config.auxiliary,
            "n_primary": self.n_primary,
            "genes": kind.names[self.n_primary :],
            "weight": [round(value, _DIGITS) for value in weight.tolist()],
        }
        if self.cut is not None:
            found |= {
                "cut": self.cut,
                "n_kept": int((weight >= 0.5).sum()),
                "tuned_on": stopped_on if self.same_rows else self.tuned_on,
                "tuned_where_stopped": self.same_rows,
            }
        return found

    def _weight(self, cut: torch.Tensor) -> torch.Tensor:
        return soft_mask(cut, self.n_primary, self.n_auxiliary, self.config.mask_temperature)


def with_primary(data: ArraySet, config: TrainConfig) -> ArraySet:
    """Training rows with the primary genes first, as :func:`stpredict.training.fit_arrays` takes them for auxiliary genes.

    Parameters
    ----------
    data
        Training rows with a target of genes, whose kind is known.
    config
        Settings, see :func:`stpredict.training.train_config`.

    Returns
    -------
    The same rows with their outputs in another order, and `n_primary`.

    Raises
    ------
    KeyError
        When a primary gene is not in the panel.
    TypeError
        When the target is none of genes.
    ValueError
        When there is no target whose kind is known, or no gene is left to be auxiliary.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> section, features = np.arange(40) // 10, rng.normal(size=(40, 3)).astype(np.float32)
    >>> kind = stp.training.targets.ExpressionTarget(("A", "B", "C", "D"), {"method": "scanpy"})
    >>> target = (features @ rng.normal(size=(3, 4))).astype(np.float32)
    >>> data = stp.training.ArraySet(section, section, {"features": features}, target, kind)
    >>> config = stp.training.train_config("mlp", {"auxiliary": "all", "primary": ["C"], "max_epochs": 2})
    >>> fit = stp.training.fit_arrays("mlp", stp.training.with_primary(data, config), config=config)
    >>> fit.network.n_outputs, stp.training.predict_arrays(fit.network, data).mean.shape
    (4, (40, 1))
    """
    if data.kind is None or data.target is None:
        raise ValueError("expected rows with a target of genes whose kind is known; found none; pass `kind`")
    rows = data.only_labeled()
    assert rows.target is not None  # as the whole has one
    order, n_primary = order_genes(data.kind, rows.target, rows.section, config)
    return replace(data.outputs(order), n_primary=n_primary)
