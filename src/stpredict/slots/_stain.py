"""The stains that the pictures of an object are given where they are read, and what is remembered of that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._stain import METHODS, PUBLISHED, WHITE, WHITES, Recoloring, Stain, StainMethod
from stpredict.core._validate import check_choice

if TYPE_CHECKING:
    from anndata import AnnData

STAIN = "stain"
PUBLISHED_NAME = "published"
FITTED_NAME = "sections"
_N_VALUES = 8  # of two stains; the light of a section comes after them


@dataclass(frozen=True)
class StainReference:
    """The stains that pictures are given: of a publication, or of the sections that they were found in.

    :func:`stpredict.pp.stain_reference` makes one of sections. It is written into the record of features and into models.

    Attributes
    ----------
    stain
        Method and numbers.
    name
        `"published"` or `"sections"`.
    sections, patients
        Those that it was found in.

    Examples
    --------
    >>> import stpredict as stp
    >>> reference = stp.pp.StainReference.published("macenko")
    >>> reference.hematoxylin, reference.eosin
    ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
    """

    stain: Stain
    name: str = FITTED_NAME
    sections: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()

    @property
    def method(self) -> StainMethod:
        """`"macenko"`, `"vahadane"` or `"reinhard"`."""
        return self.stain.method

    @property
    def hematoxylin(self) -> tuple[float, ...] | None:
        """Optical density of hematoxylin in red, green and blue; `None` with `"reinhard"`, which separates no stains."""
        return None if self.method == "reinhard" else self.stain.values[:3]

    @property
    def eosin(self) -> tuple[float, ...] | None:
        """Optical density of eosin in red, green and blue; `None` with `"reinhard"`."""
        return None if self.method == "reinhard" else self.stain.values[3:6]

    @property
    def white(self) -> str:
        """`"section"` where every section has its own light through glass, `"published"` where all have 240."""
        return WHITES[len(self.stain.values) > _N_VALUES]

    @classmethod
    def published(cls, method: str = "macenko", white: str = WHITES[0]) -> StainReference:
        """The reference that a method was published with, which needs no sections.

        With `white="section"` the light through the glass of a section becomes 240 in red, green and blue.

        Raises
        ------
        ValueError
            When there is none.
        """
        if method not in PUBLISHED:
            raise ValueError(
                f"expected a method with a published reference ({', '.join(PUBLISHED)}); found {method!r}; fit a reference on "
                f"training sections: stp.pp.stain_reference(adata[train], {method!r})"
            )
        light = () if check_choice(white, WHITES, "white") == WHITES[0] else (WHITE,) * 3
        return cls(Stain(method, PUBLISHED[method] + light), PUBLISHED_NAME)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as records and models hold them."""
        return {
            "method": self.method,
            "values": list(self.stain.values),
            "digest": self.stain.digest,
            "name": self.name,
            "sections": list(self.sections),
            "patients": list(self.patients),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> StainReference:
        """The reference of :meth:`to_dict`.

        Raises
        ------
        ValueError
            When it is none.
        """
        try:
            method, values = str(entry["method"]), tuple(float(value) for value in entry["values"])
            sections, patients = (tuple(map(str, entry.get(name) or ())) for name in ("sections", "patients"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a stain reference with method and values; found {entry!r}") from error
        if method not in METHODS or len(values) not in ((6,) if method == "reinhard" else (_N_VALUES, _N_VALUES + 3)):
            raise ValueError(
                f"expected a stain reference of {', '.join(METHODS)}; found {method!r} with {len(values)} numbers"
            )
        return cls(Stain(method, values), str(entry.get("name", FITTED_NAME)), sections, patients)  # type: ignore[arg-type]

    def save(self, path: str | Path) -> None:
        """Write it to a JSON file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> StainReference:
        """Read it from a JSON file of :meth:`save`.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        ValueError
            When it holds something else.
        """
        try:
            entry = json.loads(Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"expected a stain reference of StainReference.save at {path}; found no JSON") from error
        return cls.from_dict(entry)


def stain_entry(reference: StainReference, stains: Mapping[str, Stain], n_tiles: int, seed: int) -> dict[str, Any]:
    """Record of the stains of sections and of the reference that they are given."""
    values = {name: list(stain.values) for name, stain in stains.items()}
    return {"reference": reference.to_dict(), "sections": values, "n_tiles": n_tiles, "seed": seed}


def recoloring(entry: Mapping[str, Any] | None, sample: str) -> Recoloring | None:
    """What is done to the pixels of a section; `None` where nothing is.

    Raises
    ------
    KeyError
        When stains were found in other sections only.
    """
    if entry is None:
        return None
    reference = StainReference.from_dict(entry["reference"])
    if sample not in entry["sections"]:
        raise KeyError(
            f"expected the stains of section {sample!r}; found those of {', '.join(sorted(entry['sections']))}; call "
            "stp.pp.normalize_stain again, with the same reference, or with 'none' to read pictures as they are"
        )
    values = tuple(float(value) for value in entry["sections"][sample])
    return Recoloring(Stain(reference.method, values), reference.stain)


def recorded_reference(adata: AnnData) -> StainReference | None:
    """The stains that pictures of an object are given; `None` where they are read as they are."""
    from stpredict.slots._provenance import read_record

    entry = read_record(adata, STAIN)
    return None if entry is None else StainReference.from_dict(entry["reference"])


def stain_facts(reference: StainReference | None, left: Mapping[str, int | None] | None = None) -> dict[str, Any]:
    """What the record of features says of the stains, and whose pictures had a part in it."""
    if reference is None:
        return {}
    facts: dict[str, Any] = {STAIN: reference.to_dict()}
    if left is not None:
        facts["left"] = {name: count for name, count in left.items() if count is not None}
    # As with every step that is fitted: whoever had a part in it is not new to a model that reads the features.
    return facts | ({"patients_seen": list(reference.patients)} if reference.patients else {})


def shown_stain(entry: Mapping[str, Any] | None) -> str:
    """A reference in a message."""
    return "none" if not entry else f"{entry['method']}, {entry['name']} ({entry['digest'][:8]})"


def model_reference(model: Any) -> StainReference:
    """The stains that a model knows.

    Raises
    ------
    ValueError
        When it reads pictures as they are, or features of pictures with different stains.
    """
    found = [entry.get(STAIN) for entry in model.features.get("slots", {}).values()] + [model.features.get(STAIN)]
    different = {entry["digest"]: entry for entry in found if entry}
    if len(different) != 1:
        raise ValueError(
            f"expected a model of pictures with one stain reference; found {len(different)}; "
            "a model of pictures as they are needs no stp.pp.normalize_stain"
        )
    return StainReference.from_dict(next(iter(different.values())))
