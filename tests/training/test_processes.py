"""Fits by several processes: the rows of a step are divided, and what comes out is the fit of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cluster_calls
import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models import build
from stpredict.training import ArraySet, Loader, TrainConfig, _processes
from stpredict.training._processes import begins_own, check_processes, is_first, side_by_side

SCRIPT = Path(__file__).parent / "rank_fit.py"


def fit_by_two(folder: Path) -> list[dict[str, Any]]:
    """What each of two processes has of the fits of the script."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    base = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    base["PYTHONPATH"] = os.pathsep.join([str(Path(stp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    both = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)], env=base | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=400)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], said
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(2)]


def test_two_processes_come_to_the_fit_of_one(tmp_path: Path, record_property: Any) -> None:
    """Early stopping, the history and the weights agree; one of them writes the checkpoints."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import rank_fit
    finally:
        sys.path.remove(str(SCRIPT.parent))
    first, second = fit_by_two(tmp_path)
    one = rank_fit.fits(None)
    for model in ("mlp", "egn"):
        assert torch.equal(first[model]["weights"], second[model]["weights"])
        assert first[model]["epochs"] == second[model]["epochs"]
        assert first[model]["history"] == second[model]["history"]
    assert 1 < first["mlp"]["epochs"] < len(first["mlp"]["history"]["epoch"]) < rank_fit.ROWS["max_epochs"]
    assert first["mlp"]["epochs"] == one["mlp"]["epochs"]
    far = float((first["mlp"]["weights"] - one["mlp"]["weights"]).abs().max())
    record_property("printed", f"weights of two processes are within {far:.1e} of those of one")
    assert far < 1e-5
    for column in ("train_loss", "validation_loss"):
        np.testing.assert_allclose(first["mlp"]["history"][column], one["mlp"]["history"][column], rtol=1e-5)
    losses = first["egn"]["history"]["train_loss"]
    assert losses[-1] < losses[0]
    assert first["written"] == sum(len(first[model]["history"]["epoch"]) for model in ("mlp", "egn"))
    assert second["written"] == 0
    assert len(list((tmp_path / "checkpoints").rglob("last.ckpt"))) == 2


def sections() -> ArraySet:
    section = np.repeat(np.arange(5), [7, 3, 9, 1, 5])
    return ArraySet(section, section // 2, {"features": np.zeros((25, 1), dtype=np.float32)}, identity=np.arange(25))


@pytest.mark.parametrize(
    ("draws", "size"),
    [("rows", 6), ("rows", 1), ("sections", 2), ("sections", 1), ("section_rows", 4), ("patient_rows", 4)],
)
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n", [2, 3])
def test_processes_take_different_rows_of_the_same_steps(draws: Any, size: int, shuffle: bool, n: int) -> None:
    """All of them together what one process takes, with shares whose means over rows are those of the step."""
    parts = []
    for rank in range(n):
        loader = Loader(sections(), draws, batch_size=size, shuffle=shuffle, seed=3)
        loader.rank, loader.n_ranks = rank, n
        parts.append([(batch.identity.tolist(), loader.share(step)) for step, batch in enumerate(loader)])
        assert len(parts[-1]) == len(loader)
    whole = [batch.identity.tolist() for batch in Loader(sections(), draws, batch_size=size, shuffle=shuffle, seed=3)]
    assert len({len(part) for part in parts}) == 1
    taken = [row for part in parts for rows, share in part if share for row in rows]
    assert sorted(taken) == list(range(25))
    for together in zip(*parts, strict=True):
        assert sum(share for _, share in together) == pytest.approx(n)
    divided = shuffle and not (draws == "sections" and size == 1)
    for step, together in enumerate(zip(*parts, strict=True) if divided else ()):
        own = [row for rows, share in together if share for row in rows]
        assert sorted(own) == sorted(whole[step])
        for rows, share in together:
            assert not share or share == pytest.approx(n * len(rows) / len(whole[step]))
    if not divided:
        in_turn = [rows for together in zip(*parts, strict=True) for rows, share in together if share]
        assert in_turn == whole


@pytest.mark.parametrize("given", [0, True, 1.5, "2", [], [0, 0], [-1]])
def test_devices_that_are_none_are_told(given: Any) -> None:
    with pytest.raises(ValueError, match="expected devices to be a number of at least 1"):
        TrainConfig(devices=given)


def test_the_number_of_processes_is_that_of_all_machines() -> None:
    assert TrainConfig().n_processes == 1
    assert TrainConfig(devices=[0, 3], num_nodes=2).n_processes == 4


def test_what_cannot_be_divided_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    two, data = TrainConfig(devices=2), sections()
    check_processes(two, data)
    with pytest.raises(ValueError, match="expected auxiliary='all' to be trained on in one process"):
        check_processes(TrainConfig(devices=2, auxiliary="all"), data)
    with pytest.raises(ValueError, match="start one for each device on every node: torchrun"):
        check_processes(TrainConfig(num_nodes=2), data)
    data.kind = stp.training.targets.FollowUpTarget("time", "event")
    with pytest.raises(ValueError, match="compares all observations of a step"):
        check_processes(two, data)
    data.kind = None
    monkeypatch.setattr(sys, "ps1", "> ", raising=False)
    check_processes(two, data)
    with pytest.raises(ValueError, match="expected strategy 'auto' or 'ddp_spawn' in a notebook"):
        check_processes(TrainConfig(devices=2, strategy="ddp"), data)
    monkeypatch.setattr(_processes.multiprocessing.current_process(), "_config", {"daemon": True})
    with pytest.raises(ValueError, match="expected folds on workers"):
        check_processes(two, data)


def test_processes_that_others_have_started_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    two = TrainConfig(devices=2)
    assert (begins_own(two), is_first(two)) == (True, True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    assert (begins_own(two), is_first(two)) == (False, False)
    assert (begins_own(TrainConfig()), is_first(TrainConfig())) == (False, True)
    assert begins_own(TrainConfig(devices=2, strategy="ddp_spawn"))


def test_processes_of_their_own_give_back_weights_and_errors() -> None:
    network, two = build("mlp", 2, {"features": 3}), TrainConfig(devices=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert side_by_side(cluster_calls.moved, network, two, by=1.0) == (["0", "127.0.0.1"], 3)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] + 1 if value.is_floating_point() else before[name])
    with pytest.raises(
        RuntimeError, match="(?s)expected 2 processes to train side by side; found process .*no such row"
    ):
        side_by_side(cluster_calls.moved, network, two, by=0.0)
