"""Whether the built wheel works alone, and with each extra, in a bare environment.

python benchmarks/wheels.py [--wheel dist/stpredict_histology-0.1.0-py3-none-any.whl] [--extras wsi viz] [--find-links DIR]

Without `--wheel` one is built. Environments are made by uv in a temporary folder, one after the other, of the releases that
`constraints.txt` names: about 2.5 GB of disk at a time. In each the package is imported, its command is called, and a call
runs that needs the extra. Without any extra the lines of the README run, and each of those calls must fail with a message
that names its extra, unless another dependency brings what it needs. A failure ends the script with status 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAME = "stpredict-histology"

#: A call that needs the extra, and no network.
CALLS = {
    "encoders": """
import stpredict as stp
try:
    stp.encoders.get_encoder("timm:resnet10t", weights="absent.bin", device="cpu")
except FileNotFoundError as error:
    print(error)
import timm
import torch
torch.save(timm.create_model("resnet10t", pretrained=False, num_classes=0).state_dict(), "weights.bin")
adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=4, n_spots=20)
stp.pp.image_features(adata, "timm:resnet10t", weights="weights.bin", key_added="X_timm")
print(adata.obsm["X_timm"].shape)
""",
    "wsi": """
import numpy as np
import tifffile
import stpredict as stp
pixels = np.full((800, 800, 3), 245, np.uint8)
pixels[200:600, 200:600] = np.random.default_rng(0).integers((90, 20, 90), (200, 120, 200), (400, 400, 3))
tifffile.imwrite("slide.tif", pixels, tile=(256, 256), photometric="rgb")
slide = stp.io.open_slide("slide.tif", microns_per_pixel=0.5)
stp.pp.tissue(slide, min_area_um2=1000)
stp.pp.tiles(slide, tile_um=32)
print(len(slide.shapes["tiles"]), "tiles")
""",
    "survival": """
import numpy as np
import pandas as pd
from anndata import AnnData
import stpredict as stp
rng = np.random.default_rng(0)
risk = rng.normal(size=60)
outcome = {"risk": risk, "time": rng.exponential(np.exp(-risk)), "event": rng.random(60) < 0.7}
patients = [f"P{number}" for number in range(60)]
slides = AnnData(obs=pd.DataFrame({"patient": patients, "sample": patients, **outcome}, index=patients))
print(stp.tl.survival(slides, group=None, n_boot=20)["c_index"])
""",
    "cnv": """
import numpy as np
import pandas as pd
import stpredict as stp
adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=60, n_spots=60)
stp.pp.normalize(adata)
adata.obs["kind"] = np.where(np.arange(adata.n_obs) < 30, "normal", "tumor")
starts = pd.DataFrame({"chromosome": "chr1", "start": np.arange(60) * 100, "end": np.arange(60) * 100 + 50}, adata.var_names)
stp.tl.cnv(adata, reference_key="kind", reference_cat="normal", positions=starts, window=10)
print(adata.obsm["X_cnv"].shape)
""",
    "text": """
import stpredict as stp
adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=4, n_spots=20)
stp.pp.gene_table(adata, "text", texts={gene: f"{gene} is a receptor" for gene in adata.var_names})
print(adata.varm["gene_table"].shape)
""",
    "dna": """
import pathlib
import pandas as pd
import stpredict as stp
pathlib.Path("toy.fa").write_text(">chr1\\n" + "ACGT" * 200 + "\\n")
starts = pd.DataFrame({"chrom": ["chr1"], "tss": [400], "strand": ["+"]}, index=["gene"])
print(stp.io.read_sequences("toy.fa", starts, width=64).obsm["sequence"].shape)
""",
    "viz": """
import stpredict as stp
adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=4, n_spots=20)
stp.pl.explore(adata, path="explore.html")
print("explore.html")
""",
    "dask": """
import stpredict as stp
from distributed import Client
if __name__ == "__main__":
    adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_genes=10, n_spots=30)
    stp.pp.image_features(adata)
    stp.pp.normalize(adata)
    with Client(processes=False, n_workers=1, dashboard_address=None) as client:
        print(len(stp.tl.cross_validate(adata, ["ridge"], client=client)), "scores")
""",
}


@dataclass(frozen=True)
class Environment:
    """A bare environment with the wheel, and a folder to run in."""

    python: Path
    folder: Path
    seconds: float  # that installing took

    @classmethod
    def make(cls, folder: Path, wheel: Path, extra: str | None, find_links: str | None) -> Environment:
        """Install the wheel, with an extra or none."""
        python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        links = ["--find-links", find_links] if find_links else []
        wanted = f"{NAME}[{extra}] @ {wheel.as_uri()}" if extra else f"{NAME} @ {wheel.as_uri()}"
        start = time.perf_counter()
        call([_uv(), "venv", "--quiet", "--python", sys.executable, str(folder / "venv")])
        call(
            [
                _uv(),
                "pip",
                "install",
                "--quiet",
                "--python",
                str(python),
                *links,
                "-c",
                str(ROOT / "constraints.txt"),
                wanted,
            ]
        )
        return cls(python, folder, time.perf_counter() - start)

    def run(self, code: str) -> tuple[bool, str]:
        """Whether code ends well in a process of its own, and the last line that it printed."""
        script = self.folder / "lines.py"
        script.write_text(code)
        found = subprocess.run(
            [self.python, script.name], cwd=self.folder, env=_surroundings(), capture_output=True, text=True
        )
        printed = (found.stderr if found.returncode else found.stdout).strip().splitlines() or [""]
        return found.returncode == 0, printed[-1]

    def checks(self) -> list[tuple[str, bool, str]]:
        """What every environment has to do."""
        at_import = "import time; t = time.perf_counter(); import stpredict; print(f'{time.perf_counter() - t:.3f} s')"
        command = self.python.with_name("stpredict")
        version = subprocess.run([command, "--version"], env=_surroundings(), capture_output=True, text=True)
        return [
            ("import stpredict", *self.run(at_import)),
            ("stpredict --version", version.returncode == 0, version.stdout.strip() or version.stderr.strip()),
        ]


def _surroundings() -> dict[str, str]:
    """Variables without those that would let an environment see the packages of another."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {key: value for key, value in os.environ.items() if key not in hidden} | {"MPLBACKEND": "agg"}


def _uv() -> str:
    beside = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if beside is None:
        raise SystemExit("expected uv; found none; python -m pip install uv")
    return beside


def call(command: list[str]) -> None:
    """Run a command, and end with what it said where it fails."""
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(f"{' '.join(command)}\n{found.stdout}{found.stderr}")


def extras() -> list[str]:
    """Names of the extras in `pyproject.toml`."""
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def readme_lines() -> str:
    """The Python lines of the README."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL))


def without_extra(environment: Environment) -> list[tuple[str, bool, str]]:
    """The lines of the README run; what needs an extra says which."""
    found = [("lines of the README", *environment.run(readme_lines()))]
    for extra, code in CALLS.items():
        went, line = environment.run(code)
        found.append((f"message for {extra}", went or f"pip install '{NAME}[{extra}]'" in line, line))
    return found


def with_extra(environment: Environment, extra: str) -> list[tuple[str, bool, str]]:
    """The call of an extra, or of all of them, runs."""
    return [(f"call for {name}", *environment.run(code)) for name, code in CALLS.items() if extra in (name, "all")]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="a built wheel; built in a temporary folder by default")
    parser.add_argument("--extras", nargs="*", default=["none", *extras()], help="extras to install, or none")
    parser.add_argument("--find-links", default=os.environ.get("PIP_FIND_LINKS"), help="a folder with wheels, for uv")
    given = parser.parse_args(argv)
    failed = 0
    with tempfile.TemporaryDirectory() as holder:
        wheel = given.wheel
        if wheel is None:
            call([_uv(), "build", "--quiet", "--wheel", "--out-dir", f"{holder}/dist", str(ROOT)])
            wheel = next(Path(holder, "dist").glob("*.whl"))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        for extra in given.extras:
            with tempfile.TemporaryDirectory(dir=holder) as folder:
                bare = extra == "none"
                environment = Environment.make(Path(folder), wheel.resolve(), None if bare else extra, given.find_links)
                print(f"\n{'no extra' if bare else extra}: installed in {environment.seconds:.0f} s")
                for what, went, line in environment.checks() + (
                    without_extra(environment) if bare else with_extra(environment, extra)
                ):
                    failed += not went
                    print(f"  {'ok    ' if went else 'FAILED'} {what:24} {line[:150]}", flush=True)
    print(f"\n{failed} of the checks failed" if failed else "\nall checks hold")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
