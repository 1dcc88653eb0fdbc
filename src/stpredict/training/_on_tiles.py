"""A fitted model in the shape that lazyslide asks of models that predict from features of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._standardized import within_sections
from stpredict.core._validate import check_finite, check_positive, few
from stpredict.models import INPUTS
from stpredict.training._data import ArraySet, WholeSections
from stpredict.training._predict_arrays import predict_arrays

if TYPE_CHECKING:
    from typing import Self

    import torch

    from stpredict.models import Predictor
    from stpredict.training._facts import TrainingFacts
    from stpredict.training.targets import Target

#: What can be made of features and coordinates of the tiles of one slide.
_MADE = frozenset({"features", "section_features", "positions", "section_positions", "cell", "section_cell"})
_PLACES = _MADE - {"features", "section_features"}
_IN_UM = frozenset({"positions", "section_positions"})
_OFF = 0.1  # share of a tile by which a place may miss the lattice


class OnTiles:
    """What `lazyslide.tl.feature_prediction` reads of a model: names, needs, and `predict`.

    :class:`stpredict.training.FittedModel` inherits it, so that it can be passed there. lazyslide hands over numbers alone:
    that they are the features the model was fitted on is for the caller to know. :func:`stpredict.tl.predict` checks it,
    and marks leaks.
    """

    if TYPE_CHECKING:
        model: str
        network: Predictor
        target: Target
        features: dict[str, Any]
        training: TrainingFacts

    _device: torch.device | None = None
    _microns_per_pixel: float | None = None

    @property
    def name(self) -> str:
        """Name of the network, which lazyslide puts into the name of its table: `"stpredict-{model}"`."""
        return f"stpredict-{self.model}"

    @property
    def features_model_name(self) -> str | None:
        """Name of the encoder, where it is one; lazyslide finds the table of features by it."""
        slots = list(self.features["slots"])
        return slots[0].removeprefix("X_") if len(slots) == 1 else None

    @property
    def needs_coords(self) -> bool:
        """Whether `predict` has to be told where the tiles are."""
        return bool(_PLACES & self.network.needs)

    @property
    def whole_slide(self) -> bool:
        """Whether `predict` needs all tiles of a slide at once, and not some of them at a time.

        So it is with features standardized within sections, networks that read places or whole sections, and those that
        draw samples.
        """
        network = self.network
        whole = network.draws == "sections" or any(INPUTS[name].axis == "section" for name in network.needs)
        return whole or self.needs_coords or network.samples or self.features["scaling"] == "section"

    def get_transform(self) -> Callable[..., Any] | None:
        """None: features are taken as they are."""
        return None

    def to(self, device: Any) -> Self:
        """Predict on this device from now on."""
        import torch

        self._device = torch.device(device)
        return self

    def try_compile(self, **_: Any) -> None:
        """Nothing: the network stays as it is."""

    def at(self, microns_per_pixel: float) -> Self:
        """Return the model for slides of this scale, which networks need that read positions in µm.

        Parameters
        ----------
        microns_per_pixel
            µm per pixel of the coordinates, that is of level 0 of the slide.

        Returns
        -------
        The same model, which knows the scale.

        Raises
        ------
        ValueError
            When it is not positive.
        """
        model = replace(self)  # type: ignore[type-var]
        model._microns_per_pixel = check_positive(microns_per_pixel, "microns_per_pixel")
        model._device = self._device
        return model

    def predict(self, features: Any, coords: Any = None) -> dict[str, np.ndarray]:
        """Predict the tiles of one slide from arrays; of AnnData and SpatialData :func:`stpredict.tl.predict` does.

        Parameters
        ----------
        features
            Image features (n_tiles, d) of the encoder that the model was fitted on; several encoders side by side.
        coords
            Left and upper edge (n_tiles, 2) of each tile in level-0 pixels, where `needs_coords` says so.

        Returns
        -------
        Values (n_tiles,) float32 by name, in the unit of the training target.

        Raises
        ------
        TypeError
            When the network reads something else than features and places, or `features` is no matrix.
        ValueError
            When the features have another width or are not finite, coordinates are missing or on no lattice, or the scale
            is not known.

        Examples
        --------
        >>> import stpredict as stp
        >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
        >>> stp.pp.image_features(adata)
        >>> stp.pp.normalize(adata)
        >>> model = stp.tl.fit(adata, "ridge", adata.obs["patient"] == "P1")
        >>> model.needs_coords, model.whole_slide, model.features_model_name
        (False, True, 'color-texture')
        >>> values = model.predict(adata[adata.obs["patient"] == "P2"].obsm["X_color-texture"])
        >>> len(values), values[adata.var_names[0]].shape
        (20, (60,))
        """
        other = sorted(self.network.needs - _MADE)
        if other:
            raise TypeError(
                f"expected a network that reads features and places of tiles; found {self.model!r}, which reads "
                f"{', '.join(other)} as well; call stp.tl.predict(slide, model)"
            )
        values = self._checked(features)
        n = len(values)
        if self.features["scaling"] == "section":
            values = within_sections(values, np.zeros(n, dtype=np.int64))
        inputs = {"features": values, **self._places(coords, n)}
        one = np.zeros(n, dtype=np.int64)
        data = ArraySet(
            section=one,
            patient=one - 1,
            inputs={name: array for name, array in inputs.items() if name in self.network.needs},
            whole=WholeSections(
                one,
                np.arange(n),
                {f"section_{name}": array for name, array in inputs.items() if f"section_{name}" in self.network.needs},
            ),
        )
        mean = self.target.link(predict_arrays(self.network, data, device=self._device).mean, self.training)
        return dict(zip(self.target.names, mean.T, strict=True))

    def _checked(self, features: Any) -> np.ndarray:
        """Features (n, d) float32 of the width of the training's."""
        values = features.toarray() if hasattr(features, "toarray") else features
        values = values.detach().cpu().numpy() if hasattr(values, "detach") else values
        if not isinstance(values, np.ndarray) or values.ndim != 2:
            raise TypeError(
                f"expected features as a matrix (n_tiles, d); found {type(features).__name__}; pass AnnData and SpatialData "
                "to stp.tl.predict(data, model)"
            )
        width = sum(int(entry["dim"]) for entry in self.features["slots"].values())
        if self.features["slots"] and values.shape[1] != width:
            raise ValueError(
                f"expected {width} features of {few(list(self.features['slots']))}; found {values.shape[1]}; name the table "
                "with features of the same encoder"
            )
        values = values.astype(np.float32)
        check_finite(values, "features", "compute them again")
        return values

    def _places(self, coords: Any, n: int) -> dict[str, np.ndarray]:
        """Cells and positions of the tiles, as far as the network reads them."""
        if not self.needs_coords:
            return {}
        if coords is None or np.shape(coords) != (n, 2):
            found = "none" if coords is None else f"an array {np.shape(coords)}"
            raise ValueError(f"expected the left and upper edges ({n}, 2) of the tiles; found {found}; pass `coords=`")
        corner = np.asarray(coords, dtype=np.float64)
        check_finite(corner, "coordinates of tiles", "pass level-0 pixels")
        places: dict[str, np.ndarray] = {}
        if self.network.needs & _IN_UM:
            if self._microns_per_pixel is None:
                raise ValueError(
                    f"expected the µm per pixel of the slide, as {self.model!r} reads positions in µm; found none; pass "
                    "model.at(microns_per_pixel)"
                )
            half = max((float(entry.get("tile_um") or 0) for entry in self.features["slots"].values()), default=0) / 2
            places["positions"] = (corner * self._microns_per_pixel + half).astype(np.float32)
        if self.network.needs & {"cell", "section_cell"}:
            places["cell"] = lattice_cells(corner)
        return places


def lattice_cells(corner: np.ndarray) -> np.ndarray:
    """Row and column (n, 2) int64 of tiles whose corners (n, 2), x and y, are on one square lattice."""
    steps = np.concatenate([np.diff(np.unique(corner[:, axis])) for axis in (0, 1)])
    apart = steps[steps > 1]  # corners are rounded to pixels
    pitch = 1.0
    if len(apart):
        pitch = float(apart.sum() / np.round(apart / apart.min()).sum())
    step = (corner - corner.min(axis=0)) / pitch
    cell = np.round(step).astype(np.int64)[:, ::-1]
    if np.abs(step - np.round(step)).max() > _OFF or len(np.unique(cell, axis=0)) != len(cell):
        raise ValueError(
            "expected the tiles of one slide on one square lattice, one at each place; found others; lay them with "
            "stp.pp.tiles(slide), or call stp.tl.predict(slide, model)"
        )
    return cell
