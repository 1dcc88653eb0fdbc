"""What users may ask for as a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Panel: TypeAlias = "None | str | Sequence[str] | Mapping[str, Any]"


@dataclass(frozen=True)
class Expression:
    """Expression of genes, (n_obs, n_genes) in `X` or a layer.

    Attributes
    ----------
    panel
        Genes to predict: a list, a boolean column of `var`, or a selection to run on the training observations (a method
        or a mapping with `"method"` and options of :func:`stpredict.pp.select_genes`). By default `var["selected"]`, or
        all genes.
    layer
        Layer with the values instead of `X`.
    always
        Genes to predict whatever the panel is.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.targets.Expression(panel="moran", always=["ERBB2"]).always
    ('ERBB2',)
    """

    panel: Panel = None
    layer: str | None = None
    always: Sequence[str] = ()

    def __post_init__(self) -> None:
        always = (self.always,) if isinstance(self.always, str) else tuple(str(gene) for gene in self.always)
        object.__setattr__(self, "always", always)


@dataclass(frozen=True)
class Counts:
    """Counts of genes, (n_obs, n_genes) in `layers["counts"]`, with the depth of each observation as offset.

    A model learns log rates by the likelihood of the counts; what users get are rates per count, the expected share of a
    gene in the counts of an observation. Rates are learned relative to the proportions of each section, so that what tells
    sections apart is no part of the map; their level is that of the training. The depth is `obs["depth"]` (:func:`stpredict.pp.normalize` writes it) or else
    the total of `layers["counts"]`: a deep spot counts for more than a shallow one, and depth itself is never predicted.

    Attributes
    ----------
    panel, always
        Genes to predict, as in :class:`stpredict.targets.Expression`; a selection that runs on the training observations
        reads `X`, which must be normalized for it.
    family
        `"poisson"`, or `"negative_binomial"` with a dispersion per gene from the training observations. Rates that are right
        on average have the highest Poisson likelihood whatever the variance of the counts is; the second listens less to
        genes of many counts.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.targets.Counts(panel=["ERBB2", "GNAS"]).family
    'poisson'
    """

    panel: Panel = None
    family: Literal["poisson", "negative_binomial"] = "poisson"
    always: Sequence[str] = ()

    @property
    def selection(self) -> Expression:
        """The panel, as it is asked for of expression."""
        return Expression(self.panel, None, self.always)

    @property
    def layer(self) -> None:
        """No layer of values: `X` is not read."""
        return


@dataclass(frozen=True)
class Classes:
    """Classes of observations: a boolean or categorical column of `obs`, (n_obs,).

    The network learns their logits; observations whose class is not known (`NaN`) are seen, and not learned from.

    Attributes
    ----------
    key
        The column, for example `"tumor"`.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.targets.Classes("tumor")
    Classes(key='tumor')
    """

    key: str


@dataclass(frozen=True)
class FollowUp:
    """Follow-up of patients: the network learns the log hazard of Cox's model :cite:p:`cox1972`.

    Attributes
    ----------
    time
        Column of `obs` with the follow-up time, in any unit.
    event
        Column of `obs`: 1 where the follow-up ended in the event, 0 where it was censored.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.targets.FollowUp("days", "died")
    FollowUp(time='days', event='died')
    """

    time: str = "time"
    event: str = "event"
