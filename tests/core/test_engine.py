from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from cluster_calls import dying, failing, total

import stpredict as stp
from stpredict.core._engine import _packed, _scattered, check_client, connected, on_workers
from stpredict.datasets._pyramid import write_pyramid

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One worker process, of which the first test makes two."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as made:
        yield made


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster, set_as_default=False) as made:
        yield made


def workers(cluster: Any, client: Any, n: int) -> Any:
    if len(client.nthreads()) < n:
        cluster.scale(n)
    client.wait_for_workers(n)
    return client


def test_folds_features_and_models_are_those_of_this_process(cluster: Any, client: Any, tmp_path: Path) -> None:
    """The same bits, with one worker and with two."""
    adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=12, n_genes=4)
    models = {
        "ridge": "ridge",
        "net": {"model": "mlp", "training": {"max_epochs": 2}, "hyperparameters": {"hidden": 4}},
    }
    quick: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "progress": False, "baselines": False}
    tables, objects = [], []
    for n in (0, 1, 2):
        own = adata.copy()
        there = None if n == 0 else workers(cluster, client, n)
        stp.pp.image_features(own, client=there, cache=False)
        stp.pp.normalize(own)
        tables.append(stp.tl.cross_validate(own, models, client=there, **quick))
        objects.append(own)
    for table, own in zip(tables[1:], objects[1:], strict=True):
        assert tables[0].equals(table)
        np.testing.assert_array_equal(own.obsm["X_color-texture"], objects[0].obsm["X_color-texture"])
        np.testing.assert_array_equal(own.obsm["predicted_net"], objects[0].obsm["predicted_net"])
    one = stp.tl.fit_folds(objects[0], "ridge", 2, baselines=False, path=tmp_path / "a")
    two = stp.tl.fit_folds(objects[0], "ridge", 2, baselines=False, path=tmp_path / "b", client=client, threads=1)
    for mine, other in zip(one, two, strict=True):
        np.testing.assert_allclose(mine.network.weight.numpy(), other.network.weight.numpy(), rtol=1e-5, atol=1e-7)


def bags() -> Any:
    """Tiles of three slides, of which the first has several blocks of windows, and a bag of each."""
    rng = np.random.default_rng(0)
    sides = {"a": 26, "b": 8, "c": 7}
    obs = pd.DataFrame({"sample": np.repeat(list(sides), [side**2 for side in sides.values()])})
    tiles = ad.AnnData(obs=obs.assign(patient=obs["sample"].str.upper()).rename(index=str))
    tiles.obs["array_row"], tiles.obs["array_col"] = np.hstack(
        [np.mgrid[:side, :side].reshape(2, -1) for side in sides.values()]
    )
    tiles.obsm["X_own"] = rng.normal(size=(tiles.n_obs, 6)).astype("float32")
    bulk = pd.DataFrame(rng.uniform(0, 900, (3, 5)), index=list(sides), columns=list("VWXYZ"))
    table = stp.pp.bag(tiles, "own", expression=bulk, n_tokens=4)
    stp.pp.normalize(table, unit="fpkm-uq")
    return tiles, table


def test_predictions_maps_and_tests_of_genes_are_those_of_this_process(
    cluster: Any, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same bits: steps of rows with the baselines, blocks of windows (pooled, or decoded each), and blocks of genes."""
    there = workers(cluster, client, 2)
    adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40, n_genes=6)
    stp.pp.image_features(adata, cache=False)
    stp.pp.normalize(adata)
    quick: dict[str, Any] = {"hyperparameters": {"hidden": 4}, "training": {"max_epochs": 2}}
    model = stp.tl.fit(adata, "mlp", baselines=["mean", "ridge"], **quick)
    one, two = (stp.tl.predict(adata, model, batch_size=7, client=each, copy=True) for each in (None, there))
    assert {"predicted", "predicted_baseline_mean", "predicted_baseline_ridge"} <= set(one.obsm)
    for key in one.obsm:
        np.testing.assert_array_equal(one.obsm[key], two.obsm[key])
    monkeypatch.setattr("stpredict.tl.explain._predictability._BLOCK", 100)
    one, two = (stp.tl.predictability(adata, client=each) for each in (None, there))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    tiles, table = bags()
    for name in ("sequoia", "he2rna"):
        model = stp.tl.fit(table, name, hyperparameters="small", training={"max_epochs": 1}, baselines=False)
        one, two = (stp.tl.predict(tiles, model, window=5, client=each, copy=True) for each in (None, there))
        np.testing.assert_array_equal(one.obsm["predicted"], two.obsm["predicted"])
        assert np.ptp(one.obsm["predicted"], axis=0).min() > 0
    with pytest.raises(ValueError, match="expected no client beside n_samples"):
        stp.tl.predict(adata, model, n_samples=2, client=there)


@contextmanager
def only_there(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[None]:
    """A function fails in this process, and works in those of the workers."""
    with monkeypatch.context() as within:
        within.setattr(name, lambda *args, **kwargs: pytest.fail(f"{name} was called here"))
        yield


def predicted_sections() -> ad.AnnData:
    """Sections with features, predictions and a baseline, in an order that is not that of their names."""
    adata = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=60, n_genes=8)
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    stp.pp.image_features(adata, cache=False)
    stp.pp.normalize(adata)
    adata.obs["density"] = np.arange(adata.n_obs, dtype=float) % 7
    model = stp.tl.fit(adata, "ridge", train=adata.obs["patient"] == "P1")
    stp.tl.predict(adata, model)
    return adata


def test_scores_of_sections_are_those_of_this_process(
    cluster: Any, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same bits of an object and of a cohort on disk, and of an object the same warnings."""
    there, adata = workers(cluster, client, 2), predicted_sections()
    asked: dict[str, Any] = {"given": ["density"], "habits": ["panel", "smoothed"]}
    adata.obs.loc[adata.obs["sample"] == "P2_S1", "array_row"] = 0
    cohort = stp.Cohort.divide(adata, tmp_path / "sections")
    for data in (adata, cohort):
        with pytest.warns(UserWarning, match="ssim is undefined .* in 1 sections"):
            one = stp.tl.evaluate(data, **asked)
        told = pytest.warns(UserWarning, match="ssim is undefined .* in 1 sections") if data is adata else nullcontext()
        with told, only_there(monkeypatch, "stpredict.tl.judge._part_scores._scored"):
            two = stp.tl.evaluate(data, client=there, **asked)
        assert one["sample"].nunique() == 3
        pd.testing.assert_frame_equal(one, two, check_exact=True)
        assert one.attrs == two.attrs


def test_well_predicted_genes_are_those_of_this_process(
    cluster: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bits of genes in blocks, with slides averaged within patients, folds and comparators."""
    there, rng = workers(cluster, client, 2), np.random.default_rng(0)
    obs = pd.DataFrame({"patient": np.arange(60) % 25, "predicted_fold": np.arange(60) % 25 % 3})
    slides = ad.AnnData(
        rng.normal(size=(60, 40)), obs=obs.rename(index=str), layers={"log2": rng.normal(size=(60, 40))}
    )
    for key in ("predicted", "predicted_baseline_ridge", "predicted_baseline_mean"):
        values = slides.layers["log2"] + rng.normal(size=slides.shape)
        slides.obsm[key] = pd.DataFrame(values, slides.obs_names, slides.var_names)
    asked: dict[str, Any] = {"comparators": ["ridge", "mean"], "layer": "log2"}
    monkeypatch.setattr("stpredict.metrics._pairs._BLOCK", 350)
    one = stp.tl.well_predicted(slides, **asked)
    with only_there(monkeypatch, "stpredict.tl.judge._over_patients._within_folds"):
        two = stp.tl.well_predicted(slides, client=there, **asked)
    assert one["pearson_folds"].notna().all()
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    with pytest.raises(TypeError, match="as client; found int"):
        stp.tl.well_predicted(slides, client=3, **asked)


def test_features_of_the_tiles_of_a_slide_are_those_of_this_process(
    cluster: Any, client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same bits, record and count of tiles that are not recolored, in chunks; what workers have cached is found here."""
    pytest.importorskip("wsidata")
    there, rng = workers(cluster, client, 2), np.random.default_rng(0)
    image = np.full((500, 640, 3), 243, dtype=np.uint8)
    image[64:448, 64:400] = (rng.integers(-30, 30, (384, 336, 3)) + np.array([170, 90, 150])).astype(np.uint8)
    write_pyramid(tmp_path / "slide.tif", image, 1.0)
    monkeypatch.setattr("stpredict.pp._tile_chunks._CHUNK", 7)
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    slide = stp.io.open_slide(tmp_path / "slide.tif", microns_per_pixel=1.0)
    stp.pp.tissue(slide)
    stp.pp.tiles(slide, tile_um=48.0, tile_px=32)
    stp.pp.normalize_stain(slide)
    how: dict[str, Any] = {"context": (1, 2), "batch_size": 4, "copy": True}
    name, key = "stpredict.pp._tile_chunks._encode", "color-statistics"
    here = stp.pp.image_features(slide, key, cache=False, **how).tables[f"{key}_tiles"]
    with only_there(monkeypatch, name):
        found = [stp.pp.image_features(slide, key, cache=kept, client=there, **how) for kept in (False, True)]
        found.append(stp.pp.image_features(slide, key, **how))
    assert here.n_obs > 21
    for own in found:
        np.testing.assert_array_equal(own.tables[f"{key}_tiles"].X, here.X)
        assert str(own.tables[f"{key}_tiles"].uns["stpredict"]) == str(here.uns["stpredict"])


def test_workers_write_the_sections_of_a_cohort(cluster: Any, client: Any, tmp_path: Path) -> None:
    there = workers(cluster, client, 2)
    adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=2, n_spots=12, n_genes=4)
    first = stp.Cohort.divide(adata, tmp_path / "a")
    second = first.write(tmp_path / "b")
    for cohort, each in ((first, None), (second, there)):
        stp.pp.image_features(cohort, client=each, cache=False)
        stp.pp.normalize(cohort)
    model = stp.tl.fit(first, "ridge", baselines=["mean"])
    for cohort, each in ((first, None), (second, there)):
        stp.tl.predict(cohort, model, client=each)
    stp.tl.predict(second, model, store=tmp_path / "maps", client=there)
    for name in first:
        for key in ("X_color-texture", "predicted", "predicted_baseline_mean"):
            np.testing.assert_array_equal(first[name].obsm[key], second[name].obsm[key])
        np.testing.assert_array_equal(ad.read_zarr(tmp_path / "maps" / f"{name}.zarr").X, first[name].obsm["predicted"])
    written = [path.stat().st_mtime_ns for path in second.paths.values()]
    stp.tl.predict(second, model, client=there)  # nothing is left to do, which the workers find
    assert [path.stat().st_mtime_ns for path in second.paths.values()] == written


def test_a_worker_that_is_killed_in_a_cross_validation_changes_nothing(cluster: Any, client: Any) -> None:
    """One of the two that these tests started, while both are at work."""
    there = workers(cluster, client, 2)
    adata = stp.datasets.synthetic_cohort(n_patients=4, n_sections=1, n_spots=12, n_genes=4)
    stp.pp.image_features(adata, cache=False)
    stp.pp.normalize(adata)
    models = {"net": {"model": "mlp", "training": {"max_epochs": 60, "patience": 0}, "hyperparameters": {"hidden": 8}}}
    quick: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "baselines": ["mean"]}
    serial, own = adata.copy(), adata.copy()
    table = stp.tl.cross_validate(serial, models, **quick)
    before = set(there.run(os.getpid).values())
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            busy = [address for address, tasks in there.processing().items() if tasks]
            if len(busy) > 1:
                killed.append(there.run(os.getpid, workers=busy[:1])[busy[0]])
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    found = stp.tl.cross_validate(own, models, client=there, **quick)
    killed.append(0)  # ends the thread where it found nobody at work
    thread.join()
    assert killed[0] in before
    workers(cluster, client, 2)
    assert killed[0] not in set(there.run(os.getpid).values())
    pd.testing.assert_frame_equal(table, found, check_exact=True)
    np.testing.assert_array_equal(serial.obsm["predicted_net"], own.obsm["predicted_net"])


def test_results_come_in_the_order_of_the_calls(cluster: Any, client: Any) -> None:
    values, made = np.arange(100_000.0), []

    def calls() -> Iterator[Any]:
        for number in range(9):
            made.append(number)
            yield total, {"values": values, "beside": np.arange(9.0), "number": number}

    found = on_workers(workers(cluster, client, 2), calls())
    assert next(found) == (0, values.sum())
    assert len(made) < 9  # the rest are made when their turn comes
    assert list(found) == [(number, values.sum() + number) for number in range(1, 9)]


def test_large_arrays_are_sent_beside_the_call_and_small_ones_in_it() -> None:
    large, small = np.zeros(100_000), np.zeros(10)
    body, arrays = _packed(total, {"values": large, "beside": small, "number": 0})
    assert [array.nbytes for array in arrays] == [large.nbytes]
    assert len(body) < 2000


def test_a_lost_worker_changes_nothing(cluster: Any, client: Any, tmp_path: Path) -> None:
    values = np.arange(50_000.0)  # large enough to be lost with the worker that holds it
    calls = [(dying, {"flag": str(tmp_path / "dead"), "values": values, "number": number}) for number in range(5)]
    assert list(on_workers(workers(cluster, client, 2), calls)) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert (tmp_path / "dead").exists()


def test_an_error_is_that_of_the_call(client: Any) -> None:
    with pytest.raises(KeyError, match="no such gene"):
        list(on_workers(client, [(failing, {"number": number}) for number in range(3)]))


def test_an_address_is_a_client_of_its_own(cluster: Any) -> None:
    with connected(cluster.scheduler_address) as made:
        assert list(on_workers(made, [(failing, {"number": 0})])) == [0]
    assert made.status == "closed"
    with connected(None) as nothing:
        assert nothing is None


def test_what_is_no_client_is_told() -> None:
    with pytest.raises(TypeError, match="expected a dask.distributed.Client or the address"):
        check_client(4)
    with pytest.raises(ValueError, match="expected n_jobs=1 beside a client"):
        check_client("tcp://localhost:1", n_jobs=2)


def test_processes_and_a_client_at_once_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match="leave one of them out"):
        stp.tl.cross_validate(None, client="tcp://localhost:1", n_jobs=2)  # type: ignore[arg-type]


def test_arrays_are_sent_again_when_the_worker_that_takes_them_is_lost(monkeypatch) -> None:
    class Losing:
        def __init__(self, n: int) -> None:
            self.n, self.asked = n, 0

        def scatter(self, arrays: list[Any], hash: bool) -> list[Any]:
            self.asked += 1
            if self.asked <= self.n:
                raise KeyError("tcp://127.0.0.1:1") if self.asked % 2 else OSError("closed")
            return arrays

    monkeypatch.setattr("stpredict.core._engine.time.sleep", lambda seconds: None)
    client = Losing(2)
    assert _scattered(client, [1]) == [1]
    assert client.asked == 3
    with pytest.raises(OSError, match="closed"):
        _scattered(Losing(100), [1])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is kept by glibc")
@pytest.mark.parametrize(("threshold", "changed"), [("65536", True), (str(2**30), False), ("", False)])
def test_workers_keep_the_memory_that_they_free(threshold: str, changed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's own setting gives each array back at once, as faults of its pages show."""
    code = (
        "import resource, sys, threading\n"
        "import numpy as np\n"
        "from stpredict.core._engine import keep_memory\n"
        "def faults():\n"
        "    start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(200):\n"
        "        np.ones(2**18)\n"
        "    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)\n"
        "def in_thread():\n"
        "    thread = threading.Thread(target=faults)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "found = []\n"
        "in_thread()\n"
        "found.append(int(keep_memory()))\n"
        "in_thread()\n"
        "print(*found)\n"
    )
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": threshold}
    if not threshold:
        del environment["MALLOC_TRIM_THRESHOLD_"]
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    before, kept, after = map(int, told.stdout.split())
    assert kept == changed
    if changed:
        assert after < before / 4
