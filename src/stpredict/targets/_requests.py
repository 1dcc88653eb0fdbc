"""What users may ask for as a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Panel: TypeAlias = "None | str | Sequence[str] | Mapping[str, Any]"
Link: TypeAlias = Literal["identity", "log", "logit", "softmax"]
LINKS: tuple[Link, ...] = ("identity", "log", "logit", "softmax")


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
class Values:
    """Numbers of observations: columns of `obs`, or a slot of `obsm` (programme scores, cell-type fractions, proteins).

    Observations with a gap (`NaN`) in any of the values count as not measured: they are predicted, and not learned from.

    Attributes
    ----------
    obs
        Column of `obs`, or several, (n_obs,) each.
    obsm
        Slot of `obsm` instead, (n_obs, n_values): a DataFrame, or an array, sparse or not, whose columns are named by
        `uns["{obsm}_names"]`, or by the slot and their number.
    columns
        Some of the columns of the slot, by name.
    link
        The range of the values, which no prediction leaves. `"identity"`: any number. `"log"`: above 0. `"logit"`: each
        between 0 and 1. `"softmax"`: between 0 and 1, and every row sums to 1. When `None`, `"softmax"` where that is so of
        all training observations, and else `"identity"`.
    units
        Unit of the values, for figures and tables: one for all, one for each, or by name.

    Raises
    ------
    TypeError
        When neither or both of `obs` and `obsm` are given, or `columns` without `obsm`.
    ValueError
        When there is no such link.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.targets.Values(obsm="fractions", link="softmax").obsm
    'fractions'
    >>> stp.targets.Values("area", link="log", units="µm²").obs
    ('area',)
    """

    obs: str | Sequence[str] | None = None
    obsm: str | None = None
    columns: Sequence[str] | None = None
    link: Link | None = None
    units: str | Sequence[str] | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if (self.obs is None) == (self.obsm is None):
            raise TypeError("expected either `obs`, one or several columns, or `obsm`, a slot; found both or none")
        if self.columns is not None and self.obsm is None:
            raise TypeError("expected `columns` with `obsm`, whose columns they are; found them without")
        if self.link is not None and self.link not in LINKS:
            raise ValueError(f"expected link to be one of {', '.join(map(repr, LINKS))}; found {self.link!r}")
        for name in ("obs", "columns"):
            value = getattr(self, name)
            if value is not None:
                value = (value,) if isinstance(value, str) else tuple(str(each) for each in value)
                object.__setattr__(self, name, value)


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
