"""Public data from a server of this machine, and what is said without one."""

from __future__ import annotations

import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import stpredict as stp
from stpredict.datasets import _her2st, _visium
from stpredict.datasets._fetch import Remote, Source, fetch

HER2ST = Path(__file__).parents[3] / "shared" / "data" / "her2st"
SOURCE = Source("some data", "CC0", "nobody 2026")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path):
    (tmp_path / "served").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "served")) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, tmp_path / "served", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_is_fetched_once_and_credited(server, tmp_path, capsys) -> None:
    web, folder, address = server
    (folder / "a.txt").write_text("content")
    files = {"part/a.txt": Remote(f"{address}/a.txt", hashlib.sha256(b"content").hexdigest())}
    for _ in range(2):
        found = fetch(files, tmp_path / "kept", SOURCE, progress=False)
        assert found["part/a.txt"].read_text() == "content"
    assert len(web.asked) == 1
    assert capsys.readouterr().out.splitlines()[0] == "some data: CC0. Cite: nobody 2026"


def test_another_content_is_refused_and_not_kept(server, tmp_path) -> None:
    _, folder, address = server
    (folder / "a.txt").write_text("something else")
    files = {"a.txt": Remote(f"{address}/a.txt", hashlib.sha256(b"content").hexdigest())}
    with pytest.raises(ValueError, match="expected the content of a.txt that was recorded for some data"):
        fetch(files, tmp_path / "kept", SOURCE, progress=False)
    assert not (tmp_path / "kept" / "a.txt").exists()


@pytest.mark.parametrize("gone", ["http://127.0.0.1:9", "missing"])
def test_without_the_file_the_message_says_what_to_put_where(server, tmp_path, gone) -> None:
    _, _, address = server
    url = f"{address}/nothing.txt" if gone == "missing" else f"{gone}/nothing.txt"
    with pytest.raises(FileNotFoundError) as error:
        fetch({"a.txt": Remote(url, "0" * 64)}, tmp_path / "kept", SOURCE, progress=False)
    assert url in str(error.value)
    assert str(tmp_path / "kept" / "a.txt") in str(error.value)
    assert "synthetic_cohort" in str(error.value)


def test_unknown_sections_are_named() -> None:
    with pytest.raises(ValueError, match="expected sections among B4, C2.*found A1"):
        stp.datasets.her2st(["B4", "A1"])
    with pytest.raises(ValueError, match="expected one of V1_Breast.*found 'V1_Human_Heart'"):
        stp.datasets.visium("V1_Human_Heart")


def test_every_file_has_a_hash_of_its_own() -> None:
    hashes = [each for row in (*_her2st._SECTIONS.values(), *_visium._SECTIONS.values()) for each in row[1:]]
    assert len(set(hashes)) == len(hashes) == 3 * 7
    assert all(len(each) == 64 and int(each, 16) for each in hashes)


@pytest.mark.skipif(not HER2ST.is_dir(), reason="needs ../shared/data/her2st")
def test_files_that_were_put_by_hand_are_read_without_a_network(tmp_path, capsys) -> None:
    for kind, name in {"counts": "B4.tsv.gz", "spots": "B4_selection.tsv", "images": "B4.jpg"}.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / name).symlink_to(HER2ST / kind / name)
    adata = stp.datasets.her2st("B4", folder=tmp_path)
    assert adata.n_obs == 283
    assert adata.uns["stpredict"]["dataset"]["name"] == "her2st"
    assert "Andersson" in capsys.readouterr().out
