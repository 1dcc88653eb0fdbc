"""BG-TRIPLEX: its parts, what guidance leaves alone, and what it adds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp
from stpredict.models import Batch, Predictor
from stpredict.training import ArraySet, fit_arrays, train_config
from stpredict.training._data import WholeSections

D, GENES, SIDE = 4, 3, 8
TINY = {"dim": 8, "depth": (1, 2, 1), "heads": (2, 2, 2), "mlp": (1, 1, 1), "dropout": (0.3, 0.3, 0.3)}
SLOTS = ("features", "neighbors", "section_features", "edges", "nuclei")
MODES = pytest.mark.parametrize(
    "mode",
    [{}, {"guide_keys": "single"}, {"guide_keys": "single", "share_guide": True}],
    ids=["tokens", "single", "shared"],
)


def sections_set(n_sections: int = 2, seed: int = 0, width: int = D) -> ArraySet:
    """Square sections; the expression follows the nuclei of a spot's own tile, which its features do not show."""
    rng = np.random.default_rng(seed)
    n = n_sections * SIDE**2
    squares = {name: rng.normal(size=(n, 25, width)).astype(np.float32) for name in ("neighbors", "edges", "nuclei")}
    own = squares["neighbors"][:, 12].copy()
    section = np.arange(n) // SIDE**2
    loading = np.random.default_rng(99).normal(size=(width, GENES))
    mask = np.ones((n, 25), dtype=bool)
    return ArraySet(
        section=section,
        patient=section,
        inputs={"features": own, "neighbor_mask": mask, "boundary_mask": mask.copy(), **squares},
        target=(squares["nuclei"][:, 12] @ loading + 0.2 * rng.normal(size=(n, GENES))).astype(np.float32),
        whole=WholeSections(
            section,
            np.arange(n),
            {"section_features": own, "section_cell": np.stack(np.divmod(np.arange(n) % SIDE**2, SIDE), axis=1)},
        ),
    )


def network(name: str = "bg_triplex", seed: int = 0, **options: Any) -> Predictor:
    """A network that is not trained, none of whose weights are zero."""
    built = stp.models.build(name, GENES, dict.fromkeys(SLOTS, D), hyperparameters=TINY | options, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built.eval()


def outputs(model: Predictor, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = model(batch)
    return {"fusion": found.mean, **found.extras["branches"]}


def whole_batch(model: Predictor, data: ArraySet) -> Batch:
    return data.batch(np.arange(len(data)), model.needs)


def correlation(predicted: Any, wanted: np.ndarray) -> float:
    return float(np.mean([np.corrcoef(p, y)[0, 1] for p, y in zip(np.asarray(predicted).T, wanted.T, strict=True)]))


def test_parts_have_the_published_sizes() -> None:
    with torch.device("meta"):
        built = stp.models.build("bg_triplex", hyperparameters="shipped")
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in built.named_children()}
    parts = {
        "target_encoder": 11_176_512, "neighbor_encoder": 12_604_816, "global_encoder": 15_760_384,
        "fusion_encoder": 3_151_872, "head": 128_250, "fc_target": 128_250, "fc_neighbor": 128_250, "fc_global": 128_250,
    }  # fmt: skip
    assert {name: found[name] for name in parts} == parts
    guidance = {"edge_encoder", "nuclei_encoder", "guide_context"}
    assert sum(n for name, n in found.items() if name not in guidance) == sum(parts.values()) == 43_206_584
    # One layer for edges and one for nuclei, whose last bias would cancel.
    assert found["guide_context"] == 2 * (3_150_848 - 512)


@MODES
def test_every_head_is_supervised(mode: dict[str, Any]) -> None:
    built, data = network(**mode).train(), sections_set()
    built.step(whole_batch(built, data), built.stages[0])["total"].backward()
    for name in ("head", "fc_target", "fc_neighbor", "fc_global"):
        assert getattr(built, name).mean.weight.grad.abs().sum() > 0
    largest = {name: 0.0 if p.grad is None else float(p.grad.abs().max()) for name, p in built.named_parameters()}
    # What cancels does so but for rounding, which differs between processors.
    idle = [name for name, found in largest.items() if found < 1e-6 * max(largest.values())]
    # Among a single key there is nothing to choose, unless the same weights see the neighbors as well.
    single = mode == {"guide_keys": "single"}
    assert idle == [f"guide_spot.{what}.layers.0.0.fn.to_q.weight" for what in ("edges", "nuclei") if single]


@MODES
def test_without_drawings_it_is_triplex(mode: dict[str, Any]) -> None:
    built, plain, data = network(**mode), network("triplex", seed=1), sections_set()
    missing, _ = plain.load_state_dict(
        {name: v for name, v in built.state_dict().items() if name in plain.state_dict()}, strict=False
    )
    assert not missing
    guided = outputs(built, whole_batch(built, data))
    data.inputs |= {name: np.zeros_like(data[name]) for name in ("edges", "nuclei")}
    empty, wanted = outputs(built, whole_batch(built, data)), outputs(plain, whole_batch(plain, data))
    for name, values in wanted.items():
        torch.testing.assert_close(empty[name], values, rtol=1e-5, atol=1e-6)
    changed = {name for name, values in wanted.items() if not torch.allclose(guided[name], values, atol=1e-3)}
    assert changed == {"fusion", "target", "neighbor"}


@MODES
def test_masked_tiles_change_nothing(mode: dict[str, Any]) -> None:
    built, data = network(**mode), sections_set()
    masks = np.random.default_rng(0).uniform(size=(2, len(data), 25)) < 0.6
    masks[:, :, 12] = True
    masks[:, 0] = False
    data.inputs["neighbor_mask"], data.inputs["boundary_mask"] = masks
    before = outputs(built, whole_batch(built, data))
    for name, mask in (("neighbors", masks[0]), ("edges", masks[1]), ("nuclei", masks[1])):
        data.inputs[name] = np.where(mask[..., None], data[name], np.float32(1e6))
    after = outputs(built, whole_batch(built, data))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(values.isfinite().all() for values in before.values())


def test_a_permutation_of_the_spots_permutes_every_prediction() -> None:
    built, data = network(), sections_set()
    order = np.random.default_rng(1).permutation(len(data))
    inputs = {name: values[order] for name, values in data.whole.inputs.items()}
    other = replace(data.take(order), whole=WholeSections(data.whole.code[order], np.arange(len(order)), inputs))
    before, after = outputs(built, whole_batch(built, data)), outputs(built, whole_batch(built, other))
    for name, values in before.items():
        torch.testing.assert_close(after[name], values[order], rtol=1e-4, atol=1e-5)


def test_evaluation_twice_is_identical() -> None:
    built, data = network(), sections_set()
    first, again = (outputs(built, whole_batch(built, data)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_nuclei_are_read_by_guidance_alone_and_from_the_right_spots() -> None:
    train, test = sections_set(5), sections_set(2, seed=100)
    shuffled = replace(test, inputs=dict(test.inputs))
    shuffled.inputs["nuclei"] = test["nuclei"][np.random.default_rng(0).permutation(len(test))]
    found = {}
    for name in ("bg_triplex", "triplex"):
        config = train_config(name).updated({"max_epochs": 15, "patience": 0, "learning_rate": 3e-3})
        built = fit_arrays(name, train, hyperparameters="small", config=config).network.eval()
        for what, data in (("", test), (" shuffled", shuffled)):
            found[name + what] = correlation(outputs(built, whole_batch(built, data))["fusion"], test.target)
    assert found["bg_triplex"] > found["triplex"] + 0.3
    assert abs(found["bg_triplex shuffled"]) < 0.2
    assert abs(found["triplex"]) < 0.2


class MeanColor(torch.nn.Module):
    """A weak encoder."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean(dim=(2, 3))


def with_seams(seed: int, n_sections: int = 5, side: int = 9, px: int = 24) -> ad.AnnData:
    """Sections of two tissues, alike but for the seam between them, a thin dark line, along which genes are expressed.

    Staining varies from tile to tile, so that the mean color of a tile hardly says whether a seam crosses it.
    """
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:side, :side].reshape(2, -1)
    y, x = np.mgrid[: side * px, : side * px] + 0.5
    parts, spatial = [], {}
    for i in range(n_sections):
        angle = rng.uniform(0, np.pi)
        across = lambda x, y, a=angle: (x - side * px / 2) * np.cos(a) + (y - side * px / 2) * np.sin(a)
        tone = np.array([200, 150, 190]) + rng.normal(0, 25, (side, side, 3))
        image = np.kron(tone, np.ones((px, px, 1)))
        image[np.abs(across(x, y)) < 2] = [90, 60, 140]
        image = np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)
        near = np.exp(-((across((col + 0.5) * px, (row + 0.5) * px) / px) ** 2))
        rates = np.exp(3 + 1.5 * near[:, None] * np.array([1.0, -1.0, 0.7]))
        name = f"s{i}"
        obs = pd.DataFrame({"sample": name, "patient": name}, index=[f"{name}_{k}" for k in range(side**2)])
        part = ad.AnnData(rng.poisson(rates).astype(np.float32), obs=obs)
        part.obsm["spatial"] = np.column_stack([col, row]) * float(px) + px / 2
        part.var_names = ["up", "down", "up too"]
        spatial[name] = {
            "images": {"hires": image},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": 1.0},
        }
        parts.append(part)
    adata = ad.concat(parts)
    adata.uns["spatial"] = spatial
    return adata


@pytest.mark.parametrize("seed", range(3))
def test_guidance_finds_the_boundary_between_tissues(seed: int) -> None:
    adata = with_seams(seed)
    tile = {"tile_um": 24, "tile_px": 24, "key_added": "X_mean", "cache": False, "progress": False}
    stp.pp.image_features(adata, MeanColor(), **tile)
    stp.pp.neighbor_features(adata, MeanColor(), **tile)
    stp.pp.nuclei(adata, progress=False)
    stp.pp.boundary_features(adata, MeanColor(), **tile)
    stp.pp.grid(adata)
    stp.pp.normalize(adata, target_sum=100)
    test = adata.obs["sample"].isin(["s3", "s4"]).to_numpy()
    found = {}
    for name in ("triplex", "bg_triplex"):
        training = {"max_epochs": 12, "patience": 0, "learning_rate": 3e-3}
        model = stp.tl.fit(adata, name, ~test, hyperparameters="small", training=training, baselines=False, seed=seed)
        stp.tl.predict(adata, model)
        predicted = np.asarray(adata.obsm["predicted"])
        sections = [(adata.obs["sample"] == s).to_numpy() for s in ("s3", "s4")]
        found[name] = np.mean([correlation(predicted[rows], np.asarray(adata.X)[rows]) for rows in sections])
    assert found["bg_triplex"] > found["triplex"] + 0.05
