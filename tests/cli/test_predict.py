"""`stpredict predict`: a map for every slide that can be read, whatever happens to the others and to the process."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import tifffile

import stpredict as stp
from stpredict.cli._digest import digest_of
from stpredict.cli._items import Item
from stpredict.cli._main import main, make_parser
from stpredict.cli._predict import make_job
from stpredict.core._turns import turn

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
pytest.importorskip("wsidata")
NAMES = [f"P{patient}_S{slide}" for patient in (1, 2, 3, 4) for slide in (1, 2)]
DAMAGED = "P3_S1"
WHOLE = [name for name in NAMES if name != DAMAGED]


def lines(text: str) -> dict[str, str]:
    """What was said of every slide, by its name."""
    return dict(re.findall(r"^\[\d+/\d+\] (\S+): (.*), [\d.]+ s$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def first(slide_folder: Path, ridge: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str, str]:
    """Maps of all slides, the status of the command that made them, and what it said."""
    out = tmp_path_factory.mktemp("maps")
    said, wrong = io.StringIO(), io.StringIO()
    with redirect_stdout(said), redirect_stderr(wrong):
        status = main(["predict", str(slide_folder), "--model", str(ridge), "--out", str(out)])
    return out, status, said.getvalue(), wrong.getvalue()


@pytest.fixture(scope="module")
def maps(first: tuple[Path, int, str, str]) -> Path:
    """Maps of all slides."""
    return first[0]


def test_seven_maps_and_one_named_failure(
    first: tuple[Path, int, str, str], slide_folder: Path, ridge: Path, capsys: pytest.CaptureFixture
) -> None:
    out, status, shown, wrong = first
    assert status == 1
    said = lines(shown)
    assert list(said) == NAMES
    assert said.pop(DAMAGED) == "FAILED"
    assert all(re.fullmatch(r"done, \d+ tiles", text) for text in said.values())
    (failure,) = [line for line in wrong.splitlines() if line.startswith("failed: ")]
    assert DAMAGED in failure
    assert "truncated" in failure
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.zarr" for name in WHOLE]
    for name in WHOLE:
        found = stp.io.read_map(out / f"{name}.zarr")
        assert np.isfinite(found.obsm["predicted"]).all()
        assert set(found.obs["sample"]) == {name}
        assert found.uns["stpredict"]["predicted"]["model"] == "ridge"
        assert "predicted_leaky" in found.obs
    assert (
        main(["predict", str(slide_folder), "--model", str(ridge), "--out", str(out)]) == 1
    )  # again: nothing is made twice
    said = lines(capsys.readouterr().out)
    assert {text.partition(",")[0] for name, text in said.items() if name != DAMAGED} == {"skipped"}


def test_maps_are_those_of_the_functions(maps: Path, slide_folder: Path, ridge: Path) -> None:
    slide = stp.io.open_slide(slide_folder / "P1_S1.tif")
    stp.pp.tissue(slide)
    stp.pp.tiles(slide, like=ridge, max_tiles=None)
    stp.pp.image_features(slide, "color-statistics")
    table = slide.tables["color-statistics_tiles"]
    stp.tl.predict(table, ridge)
    found = stp.io.read_map(maps / "P1_S1.zarr")
    assert np.array_equal(found.obsm["predicted"], table.obsm["predicted"])
    assert np.array_equal(found.obsm["spatial"], table.obsm["spatial"])
    assert stp.get.predicted(found).var_names.tolist() == stp.get.predicted(table).var_names.tolist()
    one = stp.get.predicted(found).var_names[1]
    assert np.array_equal(
        stp.io.read_map(maps / "P1_S1.zarr", [one]).obsm["predicted"][:, 0], table.obsm["predicted"][:, 1]
    )


@pytest.mark.parametrize("change", ["--max-tiles", "model", "slide"])
def test_maps_of_another_call_are_neither_taken_nor_lost(
    change: str,
    maps: Path,
    slide_folder: Path,
    ridge: Path,
    sections: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    place = tmp_path / "maps" / "P1_S1.zarr"
    shutil.copytree(maps / "P1_S1.zarr", place)
    before = stp.io.read_map(place).obsm["predicted"]
    shutil.copy(slide_folder / ("P2_S1.tif" if change == "slide" else "P1_S1.tif"), tmp_path / "P1_S1.tif")
    if change == "model":
        adata = ad.read_h5ad(sections)
        stp.tl.fit(adata, "ridge", target=list(adata.var_names[:3]), path=tmp_path / "other", baselines=False)
        ridge = tmp_path / "other"
    call = ["predict", str(tmp_path / "P1_S1.tif"), "--model", str(ridge), "--out", str(tmp_path / "maps")]
    call += ["--max-tiles", "3"] if change == "--max-tiles" else []
    assert main(call) == 1
    what = {"--max-tiles": "layout of tiles"}.get(change, change)
    assert f"found one with another {what}; name another --out, or pass --overwrite" in capsys.readouterr().err
    assert np.array_equal(stp.io.read_map(place).obsm["predicted"], before)
    assert main([*call, "--overwrite"]) == 0
    after = stp.io.read_map(place).obsm["predicted"]
    assert after.shape != before.shape or not np.array_equal(after, before)
    capsys.readouterr()
    assert main([*call, "--overwrite"]) == 0
    assert lines(capsys.readouterr().out)["P1_S1"].startswith("skipped")


def test_whatever_changes_a_map_changes_its_digest(slide_folder: Path, ridge: Path, tmp_path: Path) -> None:
    def digests(item: Item, *options: str) -> str:
        call = ["predict", str(item.path), "--model", str(ridge), "--out", str(tmp_path), *options]
        return digest_of(make_job(make_parser().parse_args(call), [item])._made_of(item))

    item = Item(slide_folder / "P1_S1.tif", "P1_S1")
    others = [
        replace(item, name="a"), replace(item, patient="P1"), replace(item, microns_per_pixel=2.0),
        replace(item, path=slide_folder / "P1_S2.tif"),
    ]  # fmt: skip
    options = ["--stride-um", "--max-background", "--max-tiles", "--min-tissue-um2", "--window", "--stride"]
    found = [digests(item), *map(digests, others), *(digests(item, option, "2") for option in options)]
    assert len(set(found)) == len(found) == 11
    # Neither where it lies nor how fast it is made.
    same = [["--batch-size", "7"], ["--device", "cpu"], ["--also", "h5ad"], ["--microns-per-pixel", "1"]]
    assert {digests(item, *more) for more in same} == {found[0]}
    shutil.copy(item.path, tmp_path / "copy.tif")
    assert digests(replace(item, path=tmp_path / "copy.tif")) == found[0]


def test_a_map_that_lost_a_file_is_no_finished_one(
    maps: Path, slide_folder: Path, ridge: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    place = tmp_path / "maps" / "P1_S1.zarr"
    shutil.copytree(maps / "P1_S1.zarr", place)
    for name in ("zarr.json", ".zarray"):
        (place / "X" / name).unlink(missing_ok=True)
    call = ["predict", str(slide_folder / "P1_S1.tif"), "--model", str(ridge), "--out", str(tmp_path / "maps")]
    assert main(call) == 1
    assert "lost" in capsys.readouterr().err
    assert main([*call, "--overwrite"]) == 0
    whole, again = (stp.io.read_map(path).obsm["predicted"] for path in (maps / "P1_S1.zarr", place))
    assert np.array_equal(again, whole)


def test_a_table_says_who_and_how_large_and_who_was_seen_in_training(
    slide_folder: Path, ridge: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture = tifffile.imread(slide_folder / "P1_S1.tif")
    tifffile.imwrite(tmp_path / "plain.tif", picture, tile=(256, 256), photometric="rgb")  # says no µm per pixel
    (tmp_path / "slides.tsv").write_text(
        f"path\tsample\tpatient\tmicrons_per_pixel\nplain.tif\tbiopsy 1\ttrain P1\t4\n{slide_folder}/P2_S1.tif\t\tP9\t\nnone.tif\t\t\t\n"
    )
    call = ["predict", str(tmp_path / "slides.tsv"), "--model", str(ridge), "--out", str(tmp_path / "maps")]
    assert main([*call, "--dry-run"]) == 1
    assert not (tmp_path / "maps").exists()
    assert "at 4 µm per pixel, would be written to" in (shown := capsys.readouterr().out)
    assert "none (" in shown.splitlines()[-1]
    assert "would fail" in shown.splitlines()[-1]
    assert main(call) == 1
    shown = capsys.readouterr()
    assert "none.tif" in shown.err
    first = stp.io.read_map(tmp_path / "maps" / "biopsy 1.zarr")
    assert set(first.obs["patient"]) == {"train P1"}
    second = stp.io.read_map(tmp_path / "maps" / "P2_S1.zarr")
    # Whose patient the model was trained on is said of the map, and in its line.
    assert [set(table.obs["predicted_leaky"].astype(str)) for table in (first, second)] == [{"True"}, {"False"}]
    assert [line.count("SEEN in training") for line in shown.out.splitlines() if ": done" in line] == [1, 0]
    plain = ["predict", str(tmp_path / "plain.tif"), "--model", str(ridge), "--out", str(tmp_path / "plain")]
    assert main(plain) == 1
    assert "pass --microns-per-pixel" in capsys.readouterr().err
    assert main([*plain, "--microns-per-pixel", "4"]) == 0
    assert np.array_equal(stp.io.read_map(tmp_path / "plain" / "plain.zarr").obsm["predicted"], first.obsm["predicted"])


def test_a_scale_for_those_that_record_none_changes_nothing_for_others(
    slide_folder: Path, ridge: Path, maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(maps / "P1_S1.zarr", tmp_path / "P1_S1.zarr")
    call = ["predict", str(slide_folder / "P1_S1.tif"), "--model", str(ridge), "--out", str(tmp_path)]
    assert main([*call, "--microns-per-pixel", "0.25"]) == 0
    assert lines(capsys.readouterr().out) == {"P1_S1": "skipped"}


def test_pictures_for_other_programs(
    slide_folder: Path, ridge: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    genes = stp.training.FittedModel.load(ridge).panel[1:3]
    call = ["predict", str(slide_folder / "P1_S1.tif"), "--model", str(ridge), "--out", str(tmp_path)]
    assert main([*call, "--also", "geotiff", "ome-tiff", "--genes", genes[0]]) == 0
    assert tifffile.imread(tmp_path / "P1_S1.tif").ndim == 2
    for status in ("done", "skipped"):  # other genes are written in their place, and once
        assert main([*call, "--also", "geotiff", "ome-tiff", "h5ad", "--genes", *genes]) == 0
        assert f": {status}, " in capsys.readouterr().out.splitlines()[-2]
    table = ad.read_h5ad(tmp_path / "P1_S1.h5ad")
    frame = stp.get.predicted(table).to_df()
    with tifffile.TiffFile(tmp_path / "P1_S1.tif") as file:
        bands, page = file.asarray(), file.pages.first
        step = page.tags["ModelPixelScaleTag"].value[0]
        assert all(f">{gene}</Item>" in page.tags["GDAL_METADATA"].value for gene in genes)
    with tifffile.TiffFile(tmp_path / "P1_S1.ome.tif") as file:
        channels, about = file.asarray(), file.ome_metadata
    assert all(f'Name="{gene}"' in about for gene in genes)
    assert float(re.search(r'PhysicalSizeX="([\d.]+)"', about)[1]) == pytest.approx(112.0)
    assert np.array_equal(bands, channels, equal_nan=True)
    assert np.isfinite(bands[0]).sum() == table.n_obs
    # The middle of a pixel, in pixels of the slide, is the middle of its tile.
    place = (table.obsm["spatial"] / step).astype(int)
    assert np.allclose(place + 0.5, table.obsm["spatial"] / step, atol=0.02)
    for number, gene in enumerate(genes):
        assert np.array_equal(bands[number][place[:, 1], place[:, 0]], frame[gene].to_numpy())


def test_what_another_process_works_on_is_left_to_it_and_looked_at_last(
    slide_folder: Path, ridge: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import threading

    out, names = tmp_path / "maps", ["P1_S1", "P1_S2"]
    out.mkdir()
    (tmp_path / "slides").mkdir()
    for name in names:
        shutil.copy(slide_folder / f"{name}.tif", tmp_path / "slides")
    call = ["predict", str(tmp_path / "slides"), "--model", str(ridge), "--out", str(out)]
    with turn(out / "P1_S1.zarr") as ours:
        assert ours
        thread = threading.Thread(target=main, args=(call,))
        thread.start()
        while not (out / "P1_S2.zarr").exists():
            thread.join(0.05)
            assert thread.is_alive()
        assert not (out / "P1_S1.zarr").exists()  # the other was not kept waiting
    thread.join()
    assert list(lines(capsys.readouterr().out)) == names[::-1]
    assert (out / "P1_S1.zarr").is_dir()


def test_workers_of_a_client_make_the_same_maps(
    slide_folder: Path, ridge: Path, maps: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    distributed = pytest.importorskip("distributed")
    (tmp_path / "slides").mkdir()
    for name in ("P1_S1", "P2_S1", DAMAGED):
        shutil.copy(slide_folder / f"{name}.tif", tmp_path / "slides")
    call = ["predict", str(tmp_path / "slides"), "--model", str(ridge), "--out", str(tmp_path / "maps"), "--client"]
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        assert main([*call, cluster.scheduler_address]) == 1
    said = lines(capsys.readouterr().out)
    assert said.pop(DAMAGED) == "FAILED"
    assert {text.partition(",")[0] for text in said.values()} == {"done"}
    for name in said:
        one, other = (stp.io.read_map(folder / f"{name}.zarr") for folder in (maps, tmp_path / "maps"))
        assert np.array_equal(one.obsm["predicted"], other.obsm["predicted"])


def test_two_commands_on_one_folder_make_every_map_once(
    slide_folder: Path, ridge: Path, maps: Path, tmp_path: Path
) -> None:
    names, out = [*NAMES[:3], DAMAGED], tmp_path / "maps"
    (tmp_path / "slides").mkdir()
    for name in names:
        shutil.copy(slide_folder / f"{name}.tif", tmp_path / "slides")
    call = ["predict", str(tmp_path / "slides"), "--model", str(ridge), "--out", str(out)]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "stpredict", *call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [lines(process.communicate(timeout=200)[0]) for process in both]
    assert [process.returncode for process in both] == [1, 1]
    for name in names:
        done = [each[name].startswith("done") for each in said]
        assert sum(done) == (name != DAMAGED)
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.zarr" for name in names[:3]]
    for name in names[:3]:
        first, second = (stp.io.read_map(folder / f"{name}.zarr") for folder in (maps, out))
        assert np.array_equal(first.obsm["predicted"], second.obsm["predicted"])


def test_sections_are_taken_as_slides_are(
    sections: Path, ridge: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    adata = ad.read_h5ad(sections)
    own = adata.copy()  # features that no encoder here could compute
    own.obsm["X_own"] = own.obsm["X_color-statistics"] * 2
    own.uns["stpredict"] = {**own.uns["stpredict"], "X_own": {"encoder": "own"}}
    stp.tl.fit(own, "ridge", features="own", path=tmp_path / "own")
    own.write_h5ad(tmp_path / "own.h5ad")
    assert (
        main(["predict", str(tmp_path / "own.h5ad"), "--model", str(tmp_path / "own"), "--out", str(tmp_path / "out")])
        == 0
    )
    wanted = adata.copy()
    stp.tl.predict(wanted, ridge)
    del adata.obsm["X_color-statistics"]  # computed again from the pictures
    adata.write_h5ad(tmp_path / "sections.h5ad")
    assert (
        main(["predict", str(tmp_path / "sections.h5ad"), "--model", str(ridge), "--out", str(tmp_path / "out")]) == 0
    )
    found = ad.read_zarr(tmp_path / "out" / "sections.zarr")
    assert np.array_equal(found.obsm["predicted"], wanted.obsm["predicted"])
    assert "108 observations" in lines(capsys.readouterr().out)["sections"]


@pytest.fixture
def folder_of_spatialdata(tmp_path: Path) -> Path:
    """Sections with their pictures as elements, and no features; the last has lost its picture."""
    adata = stp.datasets.synthetic_cohort(3, 1, 6, n_spots=36, microns_per_pixel=4.0, counts_per_spot=3000)
    (tmp_path / "in").mkdir()
    for name in ("P1_S1", "P2_S1", "P3_S1"):
        data = stp.io.to_spatialdata(adata[adata.obs["sample"] == name].copy())
        entry = data.tables["table"].uns["spatial"][name]
        scale = entry["scalefactors"]["microns_per_pixel"]
        data.tables["table"].uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": scale}}}
        if name == "P3_S1":
            del data.images[next(iter(data.images))]
        data.write(tmp_path / "in" / f"{name}.zarr")
    return tmp_path / "in"


def test_spatialdata_gets_features_of_its_picture_and_one_without_is_a_failure_of_its_own(
    folder_of_spatialdata: Path, ridge: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    import spatialdata

    call = ["predict", str(folder_of_spatialdata), "--model", str(ridge), "--out", str(tmp_path / "out")]
    assert main(call) == 1
    out, said = capsys.readouterr()
    assert "36 observations" in lines(out)["P1_S1"]
    assert "failed: P3_S1" in said
    assert "stp.pp.image_features(data, 'color-statistics', image=FILE)" in said
    assert not (tmp_path / "out" / "P3_S1.zarr").exists()
    call = ["features", str(folder_of_spatialdata), "--encoder", "color-statistics", "--out", str(tmp_path / "tables")]
    assert main(call) == 1
    assert "stp.pp.image_features(data, 'color-statistics', image=FILE)" in capsys.readouterr().err
    for name in ("P1_S1", "P2_S1"):
        wanted = spatialdata.read_zarr(folder_of_spatialdata / f"{name}.zarr")
        assert not any(key.startswith("X_") for key in wanted.tables["table"].obsm)  # the file stays as it is
        stp.pp.image_features(wanted, "color-statistics")
        stp.tl.predict(wanted, ridge)
        found, table = (
            ad.read_zarr(tmp_path / "out" / f"{name}.zarr"),
            ad.read_h5ad(tmp_path / "tables" / f"{name}.h5ad"),
        )
        assert np.array_equal(found.obsm["predicted"], wanted.tables["table"].obsm["predicted"])
        assert np.array_equal(table.obsm["X_color-statistics"], wanted.tables["table"].obsm["X_color-statistics"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{slides}", "--model", "nowhere", "--out", "{out}"], "expected a saved model"),
        (["nowhere", "--model", "{model}", "--out", "{out}"], "expected a file, a folder or a table"),
        (["{slides}", "--model", "{model}", "--out", "{slides}"], "another folder than that of the slides"),
        (["{empty}", "--model", "{model}", "--out", "{out}"], "expected slides or sections"),
        (["{slides}", "--model", "{model}", "--out", "{out}", "--genes", "ABC"], "expected genes of the model"),
        (["{slides}", "--model", "{model}", "--out", "{out}", "--weights", "uni"], "ENCODER=FILE"),
    ],
)
def test_what_cannot_work_for_any_slide_ends_before_the_first(
    arguments: list[str], said: str, slide_folder: Path, ridge: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    paths = {"slides": slide_folder, "model": ridge, "out": tmp_path / "out", "empty": tmp_path / "empty"}
    assert main(["predict", *(text.format(**paths) for text in arguments)]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
