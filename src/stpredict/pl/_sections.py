"""Which sections a figure shows, and how much a map of one of them varies."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from stpredict.core._validate import check_choice, check_unique
from stpredict.pl._style import Section, chosen_limits, find_section, frame_section, leave_room
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._prediction import prediction_names
from stpredict.slots._provenance import read_record
from stpredict.slots._scale import unit_in, unit_of_prediction
from stpredict.slots._truth import measured_columns, predicts_values

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container

ALL = "all"
Place = Literal["under", "beside", "none"]
_ABREAST = 4  # panels in a row
_CROWDED = 1000  # spots, from which on they hide the picture that they lie on
_FLAT_SPREAD = 0.05  # of the spread between training patients: a map that varies less shows no difference
_FLAT_NOISE = 0.01  # of the standard deviation of what was measured, which is counting noise for the most part
_FLAT_VALUE = 1e-3  # of the value, where neither is known
_POINT = 1e-9  # width of a range in its values, below which it is rounding
_CLIPPED = 0.01  # share of the values beyond either end of a range, so that one spot does not make it


def find_sections(
    data: Container,
    sample: str | Sequence[str] | None,
    *,
    spot_size: float | None,
    sample_key: str,
    table_key: str,
    to_scale: bool = False,
) -> list[Section]:
    """The sections asked for, by name or `"all"`; with `None` the first, and a note where there are others."""
    adata = get_table(data, table_key)
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    names = list(dict.fromkeys(adata.obs[sample_key].astype(str)))
    if sample is None:
        if len(names) > 1:
            warnings.warn(
                f"the figure shows section {names[0]!r}, the first of {len(names)}; name others with `sample=`, or pass "
                "sample='all'",
                stacklevel=3,
            )
        chosen = names[:1]
    elif isinstance(sample, str):
        chosen = names if sample == ALL and ALL not in names else [sample]
    else:
        chosen = [str(name) for name in sample]
        check_unique(chosen, "names in `sample`")
        if not chosen:
            raise ValueError("expected at least one section in `sample`; found none; name some, or pass sample='all'")
    return [
        find_section(
            data, sample=name, spot_size=spot_size, sample_key=sample_key, table_key=table_key, to_scale=to_scale
        )
        for name in chosen or [None]
    ]


def section_panels(
    sections: Sequence[Section], n: int = 1, *, picture: bool, width: float, room: float, above: float = 0.5
) -> list[Axes]:
    """`n` panels for each section in a new figure, after its picture where that is asked for; up to about four in a row.

    Panels are `width` inches wide; `room` is left at the right of a row for legends or color bars, and `above` for titles.
    """
    import matplotlib.pyplot as plt

    each = n + picture
    rows = -(-len(sections) * each // max(_ABREAST, each))
    beside = -(-len(sections) // rows)
    rows = -(-len(sections) // beside)
    aspects = [(section.box[2] - section.box[3]) / (section.box[1] - section.box[0]) for section in sections]
    height = float(np.clip(width * max(aspects), 0.5 * width, 2 * width)) + above
    size = (width * beside * each + room, height * rows)
    figure, grid = plt.subplots(rows, beside * each, figsize=size, squeeze=False, layout="constrained")
    leave_room(figure)
    panels = grid.reshape(-1, each)
    for spare in panels[len(sections) :].ravel():
        spare.remove()
    for section, pane in zip(sections, panels[:, 0] if picture else [], strict=False):
        frame_section(pane, section, picture=True, scale_bar=True)
        pane.set_title(f"{section.name}: H&E" if section.image is not None else section.name)
    return list(panels[: len(sections), int(picture) :].ravel())


def usual_range(values: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile of the finite values (n,); NaN without any."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [_CLIPPED, 1 - _CLIPPED])
    return float(low), float(high)


def color_limits(values: np.ndarray, vmin: float | None = None, vmax: float | None = None) -> tuple[float, float]:
    """Ends of a color scale: those asked for, and otherwise the usual range, made wider where it is a point."""
    low, high = usual_range(values)
    if not low < high:
        low, high = (0.0, 1.0) if np.isnan(low) else (low - 0.5, high + 0.5)
    return chosen_limits((low, high), vmin, vmax)


def range_text(low: float, high: float) -> str:
    """A range with as many decimals as three digits of its ends take, or as tell them apart; one number for a point."""
    if not np.isfinite([low, high]).all():
        return "no values"
    largest = max(abs(low), abs(high))
    point = high - low <= _POINT * largest
    if largest >= 1e5 or 0 < largest < 1e-4:
        texts = [f"{low:.2e}", f"{high:.2e}"]
    else:
        decimals = max(0, 2 - int(np.floor(np.log10(largest)))) if largest else 0
        while not point and f"{low:.{decimals}f}" == f"{high:.{decimals}f}":
            decimals += 1
        texts = [f"{end:.{decimals}f}" for end in (low, high)]
    # The minus of the color bars; none before a zero.
    texts = [text.replace("-", "−") if text.strip("-0.") else text.lstrip("-") for text in texts]
    return texts[0] if point else " to ".join(texts)


def is_flat(low: float, high: float, spread: float = float("nan"), noise: float = float("nan")) -> bool:
    """Whether a map from `low` to `high` shows no difference.

    Its range is measured by the `spread` between the patients of the training, or else by the standard deviation of
    measured values (`noise`), or else by the values themselves; what is not known is NaN.
    """
    usual = abs(low + high) / 2
    for share, scale in ((_FLAT_SPREAD, spread), (_FLAT_NOISE, noise)):
        if np.isfinite(scale) and scale > 0:
            return bool(high - low <= max(share * scale, _FLAT_VALUE * usual))
    return bool(high - low <= _FLAT_VALUE * usual)


def training_spread(adata: AnnData, key: str, names: Sequence[str]) -> np.ndarray:
    """Standard deviation (n,) of genes between the patients of the training; NaN where it is not recorded."""
    known = (read_record(adata, key) or {}).get("training_spread")
    columns = prediction_names(adata, key)
    if known is None or columns is None or len(known) != len(columns):
        return np.full(len(names), np.nan)
    by_gene = dict(zip(columns, known, strict=True))
    return np.array([by_gene.get(name, np.nan) for name in names], dtype=float)


def measured_spread(adata: AnnData, key: str, names: Sequence[str]) -> np.ndarray:
    """Standard deviation (n,) of what was measured of each value of a prediction, in its unit; NaN where that is unknown."""
    own, there = unit_of_prediction(adata, key), unit_in(read_record(adata, "normalize"))
    if not predicts_values(adata, key) and own.get("method") != there.get("method"):
        return np.full(len(names), np.nan)
    values = measured_columns(adata, key, names)
    known = np.isfinite(values)
    n = known.sum(axis=0)
    mean = np.where(known, values, 0).sum(axis=0) / np.maximum(n, 1)
    squares = np.where(known, values - mean, 0) ** 2
    return np.where(n > 1, np.sqrt(squares.sum(axis=0) / np.maximum(n, 1)), np.nan)


def picture_place(sections: Sequence[Section], asked: Place | None, *, own_axes: bool) -> Place:
    """Where the picture is in a figure of these sections; many spots would hide what lies under them."""
    if asked is not None:
        check_choice(asked, get_args(Place), "picture")
    if asked == "beside" and not own_axes:
        raise ValueError("expected picture='under' or 'none' with `ax`; found 'beside', which needs a panel more")
    if all(section.image is None for section in sections):
        return "none"
    crowded = max(len(section.xy) for section in sections) >= _CROWDED
    return asked or ("beside" if crowded and own_axes else "under")


FLAT = "practically constant"
