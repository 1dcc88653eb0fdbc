from __future__ import annotations

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame

ROWS, COLS, DIM = 12, 10, 3


@dataclass(frozen=True)
class ToyConfig:
    pool: bool = True


@pytest.fixture
def toy_grid():
    """Registry with a network on grids: gene A is ReLU of feature 0 three columns to the left, B follows feature 1."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from stpredict.models import Prediction, Predictor, register
    from stpredict.models.base._registry import MODELS

    @register("toy_grid", config=ToyConfig, description="For tests")
    class ToyGrid(Predictor):
        draws = "sections"
        needs = frozenset({"features", "cell"})

        def __init__(self, config, shape):
            super().__init__(config, shape)
            self.fine = nn.Conv2d(shape.width("features"), 4, (1, 7), padding=(0, 3), bias=False)
            self.act = nn.ReLU(inplace=True)
            self.coarse = nn.Conv2d(4, 4, 1, bias=False)
            self.idle = nn.Conv2d(4, 4, 1)
            self.head = nn.Linear(4, shape.n_outputs)
            with torch.no_grad():
                for weight in (self.fine.weight, self.coarse.weight, self.head.weight, self.head.bias):
                    weight.zero_()
                self.fine.weight[0, 0, 0, 0] = 1
                self.fine.weight[1, 1, 0, 3] = 1
                self.coarse.weight[:2, :2, 0, 0] = torch.eye(2)
                self.head.weight[0, 0] = 2
                self.head.weight[1, 1] = -1

        def forward(self, batch):
            codes, section = torch.unique(batch.section, return_inverse=True)
            row, col = batch["cell"].unbind(dim=1)
            row, col = row + 2, col + 3
            features = batch["features"]
            grid = features.new_zeros((len(codes), 16, 16, features.shape[1]))
            grid[section, row, col] = features
            tissue = torch.zeros((len(codes), 1, 16, 16), dtype=torch.bool)
            tissue[section, 0, row, col] = True
            values = self.act(self.fine(grid.permute(0, 3, 1, 2)))
            if self.config.pool:
                values = F.interpolate(self.coarse(F.avg_pool2d(values, 2)), scale_factor=2) + values
            self.idle(values)
            rows = values.permute(0, 2, 3, 1)[section, row, col]
            return Prediction(self.head(rows), extras={"tissue": tissue})

    yield ToyGrid
    MODELS.remove("toy_grid")


@pytest.fixture
def sections() -> ad.AnnData:
    """Two sections on a grid with holes; feature 0 is high in columns 1 and 2 of the upper half only."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:ROWS, :COLS].reshape(2, -1)
    keep = np.r_[rng.permutation(ROWS * COLS)[: ROWS * COLS - 9]]
    keep = np.union1d(keep, [0, ROWS * COLS - 1])
    row, col = np.tile(row[keep], 2), np.tile(col[keep], 2)
    n = len(row)
    features = rng.normal(0, 0.05, (n, DIM)).astype(np.float32)
    features[(col >= 1) & (col <= 2) & (row < 6), 0] += 4
    features[:, 1] += (row >= 8) * 3
    obs = pd.DataFrame(
        {"sample": np.repeat(["s1", "s2"], n // 2), "patient": "p", "grid_row": row, "grid_col": col},
        index=[f"o{i}" for i in range(n)],
    )
    adata = ad.AnnData(np.ones((n, 2), np.float32), obs=obs, var=pd.DataFrame(index=["A", "B"]))
    adata.obsm["X_toy"] = features
    adata.obsm["spatial"] = np.column_stack([col, row]) * 10.0
    adata.uns["stpredict"] = {"X_toy": {"encoder": "toy", "dim": DIM}}
    return adata


def fitted(adata: ad.AnnData, model: str = "toy_grid", panel=("A", "B"), **options):
    from stpredict.tl.learn.inputs._slots import describe_features
    from stpredict.training import FittedModel, TrainingFacts
    from stpredict.training.targets import ExpressionTarget

    network = stp.models.build(model, len(panel), {"features": DIM}, hyperparameters=options).eval()
    target = ExpressionTarget(tuple(panel), {"method": "scanpy"})
    features = describe_features(adata, ["X_toy"], "global")
    return FittedModel(model, network, target, features, TrainingFacts(["q"], ["t"], 1), pd.DataFrame())


def test_integrated_gradients_find_the_cells_that_count(toy_grid, sections) -> None:
    model = fitted(sections, pool=False)
    stp.tl.attribution(sections, model, "A", method="integrated_gradients", baseline="zero", per_feature=True)
    values = sections.obs["attribution_A"].to_numpy()
    # Output at column c is 2 relu(x0[c - 3]) where c is tissue; columns 7 and above send nowhere.
    x, n = sections.obsm["X_toy"][:, 0], len(values) // 2
    cells = set(zip(sections.obs["sample"], sections.obs["grid_row"], sections.obs["grid_col"], strict=True))
    sent = [(s, r, c + 3) in cells for s, r, c in sections.obs[["sample", "grid_row", "grid_col"]].to_numpy()]
    np.testing.assert_allclose(values, 2 * np.maximum(x, 0) * sent / n, atol=1e-6)
    np.testing.assert_allclose(sections.obsm["attribution_A_features"].sum(axis=1), values, atol=1e-6)
    np.testing.assert_allclose(sections.obsm["attribution_A_features"][:, 1:], 0)


@pytest.mark.parametrize("baseline", ["mean", "zero", np.array([1.0, -1, 0.5])])
@pytest.mark.parametrize("gene", ["A", "B"])
def test_integrated_gradients_are_complete(toy_grid, sections, baseline, gene: str) -> None:
    model = fitted(sections)
    stp.tl.attribution(sections, model, gene, method="integrated_gradients", baseline=baseline, steps=256)
    record = sections.uns["stpredict"][f"attribution_{gene}"]
    for name, table in sections.obs.groupby("sample"):
        difference = record["difference"][name]
        total = table[f"attribution_{gene}"].sum()
        assert abs(difference) > 0.01
        assert abs(total - difference) < 0.01 * abs(difference)
        assert record["completeness_error"][name] == pytest.approx(abs(total - difference) / abs(difference), abs=1e-9)
    if isinstance(baseline, str) and baseline == "zero":
        shown = sections.copy()
        stp.tl.predict(shown, model, baselines=False)
        at_zero = float(model.network.head.bias.detach()[0])
        mean = prediction_frame(shown, "predicted")[gene].groupby(shown.obs["sample"]).mean()
        np.testing.assert_allclose(mean - at_zero, [record["difference"][name] for name in mean.index], rtol=1e-4)


def test_gradcam_by_hand(toy_grid, sections) -> None:
    """One channel carries the gene: the map is that channel's activation where tissue is, scaled."""
    model = fitted(sections, pool=False)
    stp.tl.attribution(sections, model, "A", level="fine", sample="s1")
    here = sections.obs[sections.obs["sample"] == "s1"]
    x = {(r, c): v for r, c, v in zip(here["grid_row"], here["grid_col"], sections.obsm["X_toy"][:, 0], strict=False)}
    heat = np.array([max(x.get((r, c - 3), 0), 0) for r, c in zip(here["grid_row"], here["grid_col"], strict=True)])
    np.testing.assert_allclose(here["attribution_A"], (heat - heat.min()) / np.ptp(heat), atol=1e-5)
    assert sections.obs.loc[sections.obs["sample"] == "s2", "attribution_A"].isna().all()
    assert sections.uns["stpredict"]["attribution_A"]["level"] == "fine"


def test_gradcam_default_level_is_the_first(toy_grid, sections) -> None:
    stp.tl.attribution(sections, fitted(sections), "A")
    assert sections.uns["stpredict"]["attribution_A"]["level"] == "fine"


def test_gradcam_of_a_coarse_level(toy_grid, sections) -> None:
    stp.tl.attribution(sections, fitted(sections), "A", level="coarse")
    obs = sections.obs
    source = (obs["grid_col"].between(4, 5)) & (obs["grid_row"] < 6)
    assert obs.loc[source, "attribution_A"].mean() > 0.6
    assert obs.loc[obs["grid_row"] > 7, "attribution_A"].max() < 0.15
    for _, table in obs.groupby("sample"):
        assert (table["attribution_A"].min(), table["attribution_A"].max()) == (0, 1)


def test_gradcam_keeps_only_what_raises_the_output(toy_grid, sections) -> None:
    with pytest.warns(UserWarning, match=r"level 'act' .* 'B' .* section 's1' \(2 in all\).*integrated_gradients"):
        stp.tl.attribution(sections, fitted(sections), "B", level="act")
    assert (sections.obs["attribution_B"] == 0).all()


def test_off_tissue_is_not_explained(toy_grid, sections) -> None:
    sections.obs["in_tissue"] = sections.obs["grid_row"] != 11
    for method in ("gradcam", "integrated_gradients"):
        stp.tl.attribution(sections, fitted(sections), "A", method=method)
        assert sections.obs["attribution_A"].isna().equals(~sections.obs["in_tissue"])


def test_sections_do_not_depend_on_each_other(toy_grid, sections) -> None:
    for method in ("gradcam", "integrated_gradients"):
        alone = sections[sections.obs["sample"] == "s2"].copy()
        stp.tl.attribution(alone, fitted(alone), "A", method=method)
        stp.tl.attribution(sections, fitted(sections), "A", method=method)
        np.testing.assert_allclose(sections.obs.loc[alone.obs_names, "attribution_A"], alone.obs["attribution_A"])


@pytest.mark.parametrize("model", ["mlp", "ridge"])
def test_networks_on_spots(sections, model: str, monkeypatch) -> None:
    import torch

    from stpredict.tl.explain import _integrated_gradients

    torch.manual_seed(0)
    made = fitted(sections, model)
    with torch.no_grad():
        for value in (*made.network.parameters(), *made.network.buffers()):
            if value.ndim == 2:
                value.normal_()
    monkeypatch.setattr(_integrated_gradients, "_CHUNK", 50)
    stp.tl.attribution(sections, made, "B", method="integrated_gradients", steps=128, baseline="zero")
    stp.tl.predict(sections, made, baselines=False)
    zero = sections.copy()
    zero.obsm["X_toy"][:] = 0
    stp.tl.predict(zero, made, baselines=False)
    difference = (prediction_frame(sections, "predicted")["B"] - prediction_frame(zero, "predicted")["B"]) / (
        sections.n_obs // 2
    )
    np.testing.assert_allclose(sections.obs["attribution_B"], difference, atol=2e-4)
    assert max(sections.uns["stpredict"]["attribution_B"]["completeness_error"].values()) < 0.01


def test_contributions_that_cancel_are_no_error(sections, recwarn) -> None:
    import torch

    made = fitted(sections, "ridge")
    torch.manual_seed(0)
    made.network.weight.normal_()
    stp.tl.attribution(sections, made, "A", method="integrated_gradients", steps=2)
    record = sections.uns["stpredict"]["attribution_A"]
    assert abs(record["difference"]["s1"]) < 1e-4 < sections.obs["attribution_A"].abs().sum()
    assert max(record["completeness_error"].values()) < 0.01
    assert not recwarn.list


def test_few_steps_are_reported(toy_grid, sections) -> None:
    with pytest.warns(UserWarning, match="more `steps`"):
        stp.tl.attribution(
            sections, fitted(sections), "A", method="integrated_gradients", steps=1, baseline=np.array([-5.0, 0, 0])
        )
    assert sections.uns["stpredict"]["attribution_A"]["completeness_error"]["s1"] > 0.05


def test_hist(sections) -> None:
    import torch

    torch.manual_seed(0)
    model = fitted(sections, "hist", width=4, levels=3, mixer_depth=1)
    with torch.no_grad():
        model.network.head.mean.weight.normal_()
    stp.tl.attribution(sections, model, "A")
    assert sections.uns["stpredict"]["attribution_A"]["level"] == "encoder.0"
    stp.tl.attribution(sections, model, "A", method="integrated_gradients", steps=200, key_added="ig")
    assert max(sections.uns["stpredict"]["ig"]["completeness_error"].values()) < 0.05


def test_gradcam_of_the_last_level_is_the_prediction_but_for_a_constant(sections) -> None:
    import torch

    torch.manual_seed(0)
    model = fitted(sections, "hist", width=4, levels=3, mixer_depth=1)
    with torch.no_grad():
        model.network.head.mean.weight[0] = torch.tensor([1.0, -1, 2, 1])
    stp.tl.attribution(sections, model, "A", level="decoder.0")
    stp.tl.predict(sections, model, baselines=False)
    values, weight = prediction_frame(sections, "predicted")["A"], model.network.head.mean
    for _, rows in sections.obs.groupby("sample"):
        above = np.maximum(values[rows.index] - float(weight.bias.detach()[0]), 0)
        np.testing.assert_allclose(rows["attribution_A"], (above - above.min()) / np.ptp(above), atol=1e-4)


def test_gradients_off_tissue_do_not_count(sections) -> None:
    """Weights of channels are means over tissue, in proportion to it where a coarse cell covers both."""
    import torch

    torch.manual_seed(5)
    model = fitted(sections, "hist", width=4, levels=3, mixer_depth=1)
    with torch.no_grad():
        model.network.head.mean.weight.normal_()
    alone = sections[sections.obs["sample"] == "s1"].copy()
    alone = alone[(alone.obs["grid_row"] < 7) | (alone.obs["grid_col"] > 6)].copy()
    stp.tl.attribution(alone, model, "B", level="encoder.1")
    from stpredict.models import Batch

    network, cell = model.network.eval(), torch.tensor(alone.obs[["grid_row", "grid_col"]].to_numpy())
    first = torch.zeros(len(cell), dtype=torch.long)
    kept = []
    handle = network.encoder[1].register_forward_hook(lambda *args: kept.append(args[2]))
    output = (
        network(Batch(first, first, {"features": torch.tensor(alone.obsm["X_toy"]), "cell": cell})).mean[:, 1].mean()
    )
    handle.remove()
    (gradient,) = torch.autograd.grad(output, kept[0])
    tissue = torch.zeros(6, 6)  # 12 x 10 cells are padded to 12 x 12, a column on either side
    for row, col in cell:
        tissue[row // 2, (col + 1) // 2] += 1
    weight = (gradient[0] * tissue).sum(dim=(1, 2))
    coarse = (weight[:, None, None] * kept[0][0]).sum(dim=0).clamp(min=0)[None, None]
    fine = torch.nn.functional.interpolate(coarse, size=(12, 12), mode="bilinear")[0, 0].detach().numpy()
    values = fine[cell[:, 0], cell[:, 1] + 1]
    np.testing.assert_allclose(alone.obs["attribution_B"], (values - values.min()) / np.ptp(values), atol=1e-4)
    plain = (gradient[0].sum(dim=(1, 2))[:, None, None] * kept[0][0]).sum(dim=0).clamp(min=0)[None, None]
    plain = torch.nn.functional.interpolate(plain, size=(12, 12), mode="bilinear")[0, 0].detach().numpy()
    assert np.abs((plain / plain.max() - fine / fine.max())[cell[:, 0], cell[:, 1] + 1]).max() > 0.01


def test_shuffled_cells_are_refused(sections, frozen) -> None:
    model = fitted(sections, "hist", width=4, levels=3, mixer_depth=1, shuffle=True)
    before = frozen(sections)
    for method in ("gradcam", "integrated_gradients"):
        with pytest.raises(ValueError, match=r"'hist' fitted with shuffle=True.*fit it with shuffle=False"):
            stp.tl.attribution(sections, model, "A", method=method)
    assert frozen(sections) == before


@pytest.fixture
def discs() -> ad.AnnData:
    """Four sections of 20 x 18 cells; feature i is raised in one disc, and gene i is its mean over 3 x 3 cells."""
    from scipy.ndimage import uniform_filter

    rng = np.random.default_rng(0)
    row, col = np.mgrid[:20, :18]
    features, genes, inside, obs = [], [], [], []
    for name in ("s0", "s1", "s2", "s3"):
        center = rng.uniform(4, (15, 13), (2, 2))
        disc = np.stack([(row - r) ** 2 + (col - c) ** 2 < 4**2 for r, c in center], axis=-1)
        values = rng.normal(0, 0.7, disc.shape) + 2 * disc
        features.append(values.reshape(-1, 2))
        genes.append((uniform_filter(values, (3, 3, 0)) * [1, -1]).reshape(-1, 2))
        inside.append(disc.reshape(-1, 2))
        obs.append(pd.DataFrame({"sample": name, "patient": name, "array_row": row.ravel(), "array_col": col.ravel()}))
    table = pd.concat(obs, ignore_index=True).rename(index="o{}".format)
    adata = ad.AnnData(np.concatenate(genes).astype(np.float32), obs=table, var=pd.DataFrame(index=["up", "down"]))
    adata.obsm["X_toy"] = np.concatenate(features).astype(np.float32)
    adata.obsm["spatial"] = table[["array_col", "array_row"]].to_numpy() * 100.0
    adata.obsm["inside"] = np.concatenate(inside)
    normalized = {"method": "log1p", "target_sum": 1e4, "size_factors": "all"}
    adata.uns["stpredict"] = {"X_toy": {"encoder": "toy", "dim": 2}, "normalize": normalized}
    stp.pp.grid(adata)
    return adata


def test_trained_network_is_explained_by_the_tissue_that_counts(discs) -> None:
    from sklearn.metrics import roc_auc_score

    model = stp.tl.fit(
        discs, "hist", discs.obs["sample"] != "s0", baselines=(),
        hyperparameters={"width": 8, "levels": 4, "mixer_depth": 1},
        training={"max_epochs": 30, "patience": 0, "batch_size": 1, "learning_rate": 3e-3},
    )  # fmt: skip
    held_out = (discs.obs["sample"] == "s0").to_numpy()
    for gene in ("up", "down"):
        stp.tl.attribution(discs, model, gene, sample="s0")
        stp.tl.attribution(
            discs, model, gene, method="integrated_gradients", sample="s0", steps=16, key_added=f"ig_{gene}"
        )
    disc = discs.obsm["inside"][held_out]
    values = discs.obs[held_out]
    assert roc_auc_score(disc[:, 0], values["attribution_up"]) > 0.8
    assert roc_auc_score(disc[:, 1], values["attribution_down"]) < 0.4  # the gene is lower there
    assert roc_auc_score(disc[:, 0], values["ig_up"]) > 0.75
    assert roc_auc_score(disc[:, 1], values["ig_down"]) < 0.25


def test_network_is_left_as_it_was(toy_grid, sections) -> None:
    model = fitted(sections)
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    stp.tl.attribution(sections, model, "A")
    assert all((value == before[name]).all() for name, value in model.network.state_dict().items())
    assert not any(part._forward_hooks for part in model.network.modules())
    assert all(value.grad is None for value in model.network.parameters())


def test_copy_and_storage(toy_grid, sections, frozen, tmp_path) -> None:
    before = frozen(sections)
    changed = stp.tl.attribution(sections, fitted(sections), "A", method="integrated_gradients", copy=True)
    assert frozen(sections) == before
    changed.write_h5ad(tmp_path / "a.h5ad")
    assert "attribution_A" in ad.read_h5ad(tmp_path / "a.h5ad").uns["stpredict"]


BAD = {
    "gene": ({"gene": "C"}, KeyError, r"panel; found 'C'; it has 2: A, B"),
    "level": ({"level": "middle"}, KeyError, r"found 'middle'; choose among 'fine', 'act', 'coarse', 'idle'"),
    "root": ({"level": ""}, KeyError, r"found ''; choose among"),
    "no_grid": ({"level": "head"}, KeyError, r"found 'head', which does not; choose among"),
    "idle": ({"level": "idle"}, ValueError, r"'idle', which it does not"),
    "sample": ({"sample": "s9"}, KeyError, r"'s9'; choose among \['s1', 's2'\]"),
    "method": ({"method": "shap"}, ValueError, r"'gradcam'"),
    "steps": ({"method": "integrated_gradients", "steps": 0}, ValueError, r"at least one step"),
    "level_of_ig": ({"method": "integrated_gradients", "level": "fine"}, ValueError, r"`level=` with method='gradcam'"),
    "per_feature": ({"per_feature": True, "method": "gradcam"}, ValueError, r"integrated_gradients"),
    "baseline": ({"method": "integrated_gradients", "baseline": np.ones(2)}, ValueError, r"3 finite features"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_changes_nothing(toy_grid, sections, frozen, case: str) -> None:
    options, error, message = BAD[case]
    options = {"gene": "A"} | options
    before = frozen(sections)
    with pytest.raises(error, match=message):
        stp.tl.attribution(sections, fitted(sections), options.pop("gene"), **options)
    assert frozen(sections) == before


def test_gradcam_needs_a_network_on_grids(sections) -> None:
    with pytest.raises(
        ValueError, match=r"network on grids.*'mlp', which reads features; pass method='integrated_gradients'"
    ):
        stp.tl.attribution(sections, fitted(sections, "mlp"), "A", method="gradcam")


def test_the_default_method_fits_the_network(toy_grid, sections, toy) -> None:
    for adata, model, gene, options, method in (
        (sections, fitted(sections), "A", {}, "gradcam"),
        (sections, fitted(sections), "A", {"per_feature": True}, "integrated_gradients"),
        (toy, stp.tl.fit(toy, "ridge"), "G0", {}, "integrated_gradients"),
        (toy, stp.tl.fit(toy, "mlp", training={"max_epochs": 1}), "G0", {}, "integrated_gradients"),
    ):
        stp.tl.attribution(adata, model, gene, **options)
        assert adata.uns["stpredict"][f"attribution_{gene}"]["method"] == method
