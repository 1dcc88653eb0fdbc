"""Fits of heads to spots, their maps, and the prediction of spots that a fit did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._marks import MARK_CODES, WITHIN
from stpredict.slots._people import among
from stpredict.slots._reach import MARGIN
from stpredict.tl.learn._places import Spots, rows_at_once
from stpredict.tl.learn._spot_target import Result, SpotTarget

if TYPE_CHECKING:
    from stpredict.cohorts import Fold
    from stpredict.training._disks import Disks

HEADS = ("ridge", "mlp")
_FEW = 10  # spots, below which a section's features are standardized as those of the training


@dataclass(frozen=True)
class Head:
    """A kind of head and how it is fitted."""

    kind: str
    config: Any
    n_members: int
    seed: int
    device: Any
    chunk: int

    @property
    def reads_places(self) -> bool:
        """Whether it needs the features of single places to learn."""
        return self.kind == "mlp"

    def fit(self, disks: Disks, target: np.ndarray, reach_um: float) -> Any:
        """Fit to standardized features."""
        if self.kind == "ridge":
            from stpredict.training._disk_ridge import fit_disk_ridge

            return fit_disk_ridge(
                disks, target, self.config, reach_um=reach_um, n_members=self.n_members, seed=self.seed
            )
        from stpredict.training._disk_nets import fit_disk_nets

        return fit_disk_nets(
            disks, target, self.config,
            reach_um=reach_um, n_members=self.n_members, seed=self.seed, device=self.device,
        )  # fmt: skip

    def of_spots(self, fitted: Any, disks: Disks) -> np.ndarray:
        """Predictions (n, g) of spots: means over their disks."""
        if not self.reads_places:
            return np.asarray(fitted.predict(disks.mean)[0])
        assert disks.places is not None
        weights, total = disks.weights.tocsc(), 0
        for start in range(0, len(disks.places), self.chunk):
            part = slice(start, start + self.chunk)
            total = total + weights[:, part] @ fitted.predict(disks.places[part])[0]
        return np.asarray(total)


def configured(head: str, hyperparameters: Mapping[str, Any] | str | None) -> Any:
    """Hyperparameters of a head."""
    from stpredict.training._disk_nets import NET_PRESETS, NetConfig
    from stpredict.training._disk_ridge import RidgeConfig

    kind: Any = {"ridge": RidgeConfig, "mlp": NetConfig}[head]
    presets = NET_PRESETS if head == "mlp" else {}
    if isinstance(hyperparameters, str):
        if hyperparameters not in presets:
            raise ValueError(
                f"expected a preset of head {head!r} ({', '.join(presets) or 'none'}), or a mapping; found {hyperparameters!r}"
            )
        hyperparameters = presets[hyperparameters]
    options = dict(hyperparameters or {})
    known = [each.name for each in fields(kind)]
    if unknown := sorted(set(options) - set(known)):
        raise TypeError(f"expected hyperparameters among {', '.join(known)} of head {head!r}; found {few(unknown)}")
    return kind(**options)


def run_group(
    head: Head,
    learned: SpotTarget,
    spots: Mapping[str, Spots],
    names: Sequence[str],
    targets: Sequence[str],
    result: Result,
    *,
    n_blocks: int,
    buffer_um: float | None,
    group: Any,
    progress: bool,
) -> None:
    """Learn from some sections together, map all targets, and predict spots: held-out blocks where there are any.

    Parameters
    ----------
    head
        What is fitted.
    learned
        What is learned.
    spots
        Spots and maps by section.
    names, targets
        Sections that are learned from, and those that are mapped, the former among them.
    result
        Where everything is entered.
    n_blocks, buffer_um
        Blocks of each section, and how far those trained on are apart from them.
    group
        Group of a store for the maps, in memory without one.
    progress
        Whether to show a progress bar.
    """
    from stpredict.training._disks import joined

    raw = {
        name: spots[name].disks(number, head.chunk, places=head.reads_places and name in names)
        for number, name in enumerate(targets)
        if spots[name].operator is not None
    }
    reach = _reach(spots, names, buffer_um)
    buffer = reach if buffer_um is None else float(buffer_um)
    # Before the map, which may take long: what is wrong with blocks is said at once.
    folds = {name: _folds(learned, spots[name], n_blocks, buffer) for name in names} if n_blocks else {}
    seen = {name: learned.usable[spots[name].rows] for name in names}
    mask = np.zeros(learned.adata.n_obs, dtype=bool)
    mask[np.concatenate([spots[name].rows[seen[name]] for name in names])] = True
    values, what = learned.read(mask)
    order = np.argsort(np.concatenate([spots[name].rows[seen[name]] for name in names]), kind="stable")
    values = values[np.argsort(order, kind="stable")]  # from the order of the table to that of the sections
    moments = {name: raw[name].take(seen[name]).moments() for name in names}
    own = [raw[name].take(seen[name]).standardized(*moments[name]) for name in names]
    fitted = head.fit(joined(own) if len(own) > 1 else own[0], values, reach)
    result.facts["+".join(names)] = fitted.facts
    number = len(result.targets)
    result.targets.append(what)
    general = tuple(np.mean([moments[name][part] for name in names], axis=0) for part in (0, 1))
    for name in targets:
        if name not in moments:
            enough = name in raw and len(raw[name]) >= _FEW
            moments[name] = raw[name].moments() if enough else general
        means = _mapped(head, fitted, spots[name], moments[name], learned, result, group, name in names, progress)
        if name not in names or not n_blocks:
            result.take(spots[name].rows, means, _marks(learned, spots[name].rows, names, name), number)
    for name, parts in folds.items():
        _blocks(head, learned, spots[name], raw[name], result, parts, reach)


def _reach(spots: Mapping[str, Spots], names: Sequence[str], buffer_um: float | None) -> float:
    """Side in µm of what a spot shows, its disk included; the buffer where the maps do not say."""
    sides = [spots[name].dense.reach_um for name in names]
    known = [side for side in sides if side is not None]
    if len(known) < len(sides):
        if buffer_um is None:
            raise ValueError(
                "expected the reach of the features, which the buffer between spots must exceed; found none in the maps; pass "
                "`buffer_um=`, or `reach_um=` to stp.pp.DenseMap"
            )
        return float(buffer_um)
    return MARGIN * (max(known) + max(spots[name].diameter_um for name in names))


def _marks(learned: SpotTarget, rows: np.ndarray, names: Sequence[str], name: str) -> np.ndarray:
    """Marks of spots that were predicted as a part of the map: a leak where the fit saw them, or their patient."""
    if name in names:
        return np.ones(len(rows), dtype=np.int64)
    people = learned.people()
    if people is None:
        return np.full(len(rows), -1)
    sample = learned.adata.obs[learned.keys.sample].astype(str).to_numpy()
    return among(people[rows], np.unique(people[np.isin(sample, list(names)) & learned.usable])).astype(np.int64)


def _folds(learned: SpotTarget, spots: Spots, n_blocks: int, buffer_um: float) -> list[Fold]:
    """Blocks of one section, as masks (n_obs,) of the whole table; measured spots are trained on."""
    from stpredict.cohorts import spatial_blocks

    adata, keys = learned.adata, learned.keys
    here = np.zeros(adata.n_obs, dtype=bool)
    here[spots.rows] = True
    found = []
    for fold in spatial_blocks(adata[here], n_blocks, buffer_um, sample_key=keys.sample, patient_key=keys.patient):
        train, test = np.zeros(adata.n_obs, dtype=bool), np.zeros(adata.n_obs, dtype=bool)
        train[here], test[here] = fold.train, fold.test
        train &= learned.usable
        if train.sum() < 2:
            raise ValueError(
                f"expected measured spots beyond {buffer_um:g} µm of {fold.name!r}; found {int(train.sum())}; take another "
                "number of blocks, or features of a smaller reach"
            )
        found.append(replace(fold, train=train, test=test))
    return found


def _blocks(
    head: Head, learned: SpotTarget, spots: Spots, disks: Disks, result: Result, folds: Sequence[Fold], reach: float
) -> None:
    """Predict every block of a section by a fit to what lies beyond its buffer."""
    place = np.full(learned.adata.n_obs, -1)
    place[spots.rows] = np.arange(len(spots.rows))
    for fold in folds:
        values, what = learned.read(fold.train)
        shown = disks.take(place[np.flatnonzero(fold.train)])
        moments = shown.moments()
        fitted = head.fit(shown.standardized(*moments), values, reach)
        rows = np.flatnonzero(fold.test)
        told = head.of_spots(fitted, disks.take(place[rows]).standardized(*moments))
        result.take(rows, told, 1 if learned.chosen_on(fold) else MARK_CODES[WITHIN], len(result.targets))
        result.targets.append(what)


def _mapped(
    head: Head, fitted: Any, spots: Spots, moments: tuple[np.ndarray, np.ndarray], learned: SpotTarget, result: Result,
    group: Any, own: bool, progress: bool,
) -> np.ndarray:  # fmt: skip
    """Write the map of a section, block by block, and return the means (n, g) over its spots, in the unit of spots."""
    from tqdm.auto import tqdm

    from stpredict.io._dense_files import describe_dense, group_names, new_dense_array
    from stpredict.training._disks import standardize

    source, n_genes = spots.dense, len(learned.genes)
    shape = (*source.shape[:2], n_genes)
    step = rows_at_once(source.shape, head.chunk)
    stored = group_names([spots.name])[spots.name]
    unit = 1 / spots.n_places if learned.counts else 1.0
    values = new_dense_array(group, stored, shape, step)
    std = new_dense_array(group, stored, shape, step, "std") if head.n_members > 1 else None
    means = np.zeros((len(spots.rows), n_genes))
    with tqdm(total=shape[0], unit="row", desc=spots.name, disable=not progress) as bar:
        for top, bottom, features, part in spots.blocks(head.chunk):
            mean, spread = fitted.predict(standardize(features, *moments))
            values[top:bottom] = (mean * unit).reshape(bottom - top, *shape[1:])
            if std is not None:
                std[top:bottom] = (spread * unit).reshape(bottom - top, *shape[1:])
            if part is not None:
                means += part @ mean
            bar.update(bottom - top)
    record = {"head": head.kind, "counts": learned.counts, "n_places": spots.n_places, "transferred": not own}
    dense = DenseMap(
        values, source.microns, source.microns_per_pixel, source.origin, learned.genes, source.reach_um, std, record
    )
    if group is not None:
        describe_dense(group, stored, spots.name, dense)
    result.maps[spots.name] = dense
    return means
