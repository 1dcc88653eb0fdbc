"""What is scored by itself: a section, or a block of one that was held out by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._marks import MARK_CODES, WITHIN, leak_marks
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Part:
    """Observations that are scored together.

    Attributes
    ----------
    sample
        Their section.
    rows
        (n_obs,) bool.
    block
        Name of the block of the section that was held out, empty for a whole section.
    """

    sample: str
    rows: np.ndarray
    block: str = ""


def scored_parts(adata: AnnData, marks: Mapping[str, np.ndarray], sample: np.ndarray) -> list[Part]:
    """Sections (n_obs,) by name, or their blocks: each block has a model of its own, whose offsets must not count.

    `marks` are those of each prediction, by slot. Where predictions were made on different blocks, what is scored together is
    in one block of each.
    """
    import pandas as pd

    blocks = pd.Series("", index=range(adata.n_obs))
    for key, mark in marks.items():
        within = mark == MARK_CODES[WITHIN]
        if not within.any() or Key.fold(key) not in adata.obs:
            continue
        number = adata.obs[Key.fold(key)].to_numpy()
        listed = np.atleast_1d((read_record(adata, key) or {}).get("folds", []))
        names = np.array([listed[n] if 0 <= n < len(listed) else f"fold {n}" for n in number], dtype=object)
        both = blocks.where((blocks == "") | (blocks == names), blocks + " and " + names)
        blocks = blocks.where(~within, both.where(blocks != "", names))
    found = []
    for name in np.unique(sample):
        here = sample == name
        own = blocks.to_numpy().astype(str)
        found += [Part(str(name), here & (own == block), str(block)) for block in np.unique(own[here])]
    return found


def part_codes(adata: AnnData, key: str, patient_key: str, section: np.ndarray) -> np.ndarray:
    """Number (n_obs,) of what one model predicted of each section: of the whole of it, or of each block that was held out."""
    code = np.zeros(adata.n_obs, dtype=np.int64)
    for number, part in enumerate(scored_parts(adata, {key: leak_marks(adata, key, patient_key)}, section)):
        code[part.rows] = number
    return code
