"""Ratios and memory behind HGGEP, each from one run on the same data.

    python benchmarks/hggep.py [--quick] [--part hypergraph] [--part step] [--part memory]

`hypergraph`: building the hyperedges of a section, against a loop over its spots that computes, sorts and appends; the
loop runs on part of the spots, each against all of the section, and its time is scaled up.

`step`: forward and backward of one section at the published size, against the same network whose hyperedges are built
spot by spot with one appended element at a time, whose attention holds its matrix of weights, and whose central
differences take two convolutions. Same weights; predictions are compared.

`memory`: peak of a process of its own above what its imports take, and seconds, of predicting a section and of one
training step without views, the network, its gradients and the moments of Adam included. `--quick` runs a small network on small sections: it shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sequoia import median_times
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models import Batch, Shape
from stpredict.models._hggep import HGGEP, HGGEPConfig
from stpredict.models.base._section import TransformerBlock
from stpredict.models.nn._graph import hypergraph
from stpredict.models.nn._hggep_blocks import CrossDifferenceConv

GENES = 785
LIMIT_GB = 16
QUICK = {"dim": 64, "heads": 2, "depth": 1, "mlp_dim": 64, "hypergraph_hidden": 32, "lstm_layers": 1, "patch_px": 32}


def section(n: int, px: int, seed: int = 0) -> Batch:
    """Spots on a square lattice of 200 µm with patches of noise."""
    generator = torch.Generator().manual_seed(seed)
    none = torch.zeros(n, dtype=torch.long)
    side = int(n**0.5) + 1
    spots = torch.arange(n)
    positions = torch.stack([spots % side, spots // side], dim=1) * 200.0
    counts = torch.poisson(torch.full((n, GENES), 2.0), generator=generator)
    return Batch(
        none,
        none,
        {
            "positions": positions + 5 * torch.randn(n, 2, generator=generator),
            "patches": torch.randint(0, 256, (n, 3, px, px), dtype=torch.uint8, generator=generator),
            "counts": counts,
            "size_factor": torch.ones(n),
        },
        target=torch.log1p(counts),
    )


def looped_hyperedges(hidden: Tensor, positions: Tensor, k: int, rows: int | None = None) -> Tensor:
    """Members of the hyperedges of the first `rows` spots, spot by spot and element by element."""
    n = len(hidden)
    pairs = n * (n - 1)
    look, place = torch.cdist(hidden, hidden).sum() / pairs, torch.cdist(positions, positions).sum() / pairs
    members: list[list[Tensor]] = []
    for i in range(n if rows is None else rows):
        distance = (hidden - hidden[i]).norm(dim=1) / look + (positions - positions[i]).norm(dim=1) / place
        order = torch.sort(distance).indices
        edge = [torch.tensor(i)]
        for j in order:
            if len(edge) == k + 1:
                break
            if j != i:
                edge.append(j)
        members.append(edge)
    return torch.stack([torch.stack(edge) for edge in members])


class ExplicitBlock(TransformerBlock):
    """Attention that holds the weights of all pairs of spots."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (n, dim)."""
        qkv = self.to_qkv(self.attention_norm(tokens))
        query, key, value = qkv.unflatten(1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        weight = torch.softmax(query @ key.transpose(1, 2) * query.shape[2] ** -0.5, dim=2)
        tokens = tokens + self.to_out((weight @ value).transpose(0, 1).flatten(1))
        return tokens + self.feed_forward(tokens)


class TwoConvs(CrossDifferenceConv):
    """One convolution over the plus and one over its center."""

    def forward(self, images: Tensor) -> Tensor:
        """Convolve (n, n_inputs, h, w)."""
        zero = torch.zeros_like(self.weight[:, :, 0])
        up, left, center, right, down = self.weight.unbind(dim=2)
        kernel = torch.stack([zero, up, zero, left, center, right, zero, down, zero], dim=2).unflatten(2, (3, 3))
        plus = F.conv2d(images, kernel, stride=self.stride, padding=1)
        return plus - self.theta * F.conv2d(images, kernel.sum(dim=(2, 3), keepdim=True), stride=self.stride)


class Straightforward(HGGEP):
    """The same network, written as its description reads."""

    def __init__(self, config: HGGEPConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        for module in self.modules():
            if isinstance(module, TransformerBlock):
                module.__class__ = ExplicitBlock
            elif isinstance(module, CrossDifferenceConv):
                module.__class__ = TwoConvs

    def hyperedges(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """Spot by spot."""
        return looped_hyperedges(hidden.detach(), positions, self.config.neighbors)


def hypergraph_part(options: argparse.Namespace) -> list[tuple[str, float, str]]:
    n, width, rows = (300, 64, 30) if options.quick else (3000, 1024, 300)
    generator = torch.Generator().manual_seed(0)
    hidden, positions = torch.randn(n, width, generator=generator), torch.rand(n, 2, generator=generator) * 10_000
    found, wanted = hypergraph(hidden, positions, 3)[:rows], looped_hyperedges(hidden, positions, 3, rows)
    same = float((found.sort(dim=1).values == wanted.sort(dim=1).values).all(dim=1).float().mean())
    seconds = median_times(
        {
            "tensors": lambda: hypergraph(hidden, positions, 3),
            "loop": lambda: looped_hyperedges(hidden, positions, 3, rows),
        },
        options.repeats,
        torch.device("cpu"),
    )
    scaled = seconds["loop"] * n / rows
    print(f"hypergraph: {n} spots x {width}, {same:.1%} of {rows} hyperedges equal")
    print(
        f"  tensors {seconds['tensors']:.3f} s, loop over {rows} spots {seconds['loop']:.3f} s, scaled {scaled:.2f} s"
    )
    return [(f"loop (scaled from {rows} spots) / tensors", scaled / seconds["tensors"], "at least 20")]


def step_part(options: argparse.Namespace) -> list[tuple[str, float, str]]:
    rows = []
    n = 40 if options.quick else 180
    for views in (0, 5):
        config = HGGEPConfig(**(QUICK if options.quick else {}) | {"views": views})
        networks: dict[str, nn.Module] = {}
        for name, cls in (("tensors", HGGEP), ("port", Straightforward)):
            torch.manual_seed(0)
            networks[name] = cls(config, Shape(GENES))
            nn.init.normal_(networks[name].head.mean.weight, std=0.02)
        batch = section(n, config.patch_px)
        with torch.no_grad():
            first, second = (network.eval()(batch).mean for network in networks.values())
            difference = float((first - second).abs().max())

        def step(network: Any, batch: Batch = batch) -> None:
            network.train().zero_grad(set_to_none=True)
            network.loss(network(batch), batch)["total"].backward()

        repeats = options.repeats if views == 0 else max(options.repeats // 2, 1)
        seconds = median_times(
            {name: lambda network=network: step(network) for name, network in networks.items()},
            repeats,
            torch.device("cpu"),
        )
        print(f"step: {n} spots of {config.patch_px} px, {views} views, largest difference {difference:.1e}")
        print(f"  tensors {seconds['tensors']:.2f} s, port {seconds['port']:.2f} s")
        rows.append((f"port / tensors, step with {views} views", seconds["port"] / seconds["tensors"], "at least 1.00"))
    return rows


def memory_part(options: argparse.Namespace) -> list[tuple[str, float, str]]:
    rows = []
    spots = (60, 200) if options.quick else options.spots
    print(f"{'spots':>6} {'what':>8} {'s':>8} {'GB':>8}")
    for n in spots:
        for what in ("predict", "step"):
            command = [sys.executable, __file__, "--measure", what, str(n), "--threads", str(options.threads)]
            command += ["--quick"] * options.quick
            done = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(done.splitlines()[-1])
            print(f"{n:6} {what:>8} {found['seconds']:8.1f} {found['gigabytes']:8.2f}", flush=True)
            rows.append((f"GB, {what}, {n} spots", found["gigabytes"], f"below {LIMIT_GB}"))
    config = HGGEPConfig()
    pairs = 3 * config.depth * config.heads * max(spots) ** 2 * 4 / 1e9
    print(f"attention weights of all pairs of {max(spots)} spots, which a step does not hold: {pairs:.1f} GB")
    return rows


def measure(what: str, n: int, quick: bool) -> dict[str, float]:
    """Peak above the memory after imports, in GB, and seconds; in a process of its own."""
    config = HGGEPConfig(**(QUICK if quick else {}) | {"views": 0})
    before = _status("VmRSS")
    network, batch = HGGEP(config, Shape(GENES)), section(n, config.patch_px)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    if what == "predict":
        with torch.inference_mode():
            network.eval()(batch)
    else:
        network.train().loss(network(batch), batch)["total"].backward()
        optimizer.step()
    return {"seconds": clock() - start, "gigabytes": _status("VmHWM") - before}


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e9


PARTS = {"hypergraph": hypergraph_part, "step": step_part, "memory": memory_part}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), action="append", help="may be repeated; all by default")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--spots", type=int, nargs="+", default=[180, 1000, 5000])
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "SPOTS"), help="one measurement of `memory`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]), options.quick)))
        return
    rows = [row for part in options.part or PARTS for row in PARTS[part](options)]
    where = "1 thread, its own time" if options.threads == 1 else f"{options.threads} threads, elapsed time"
    print(f"\nCPU, {where}, torch {torch.__version__}, median of {options.repeats}")
    print(f"{'what':48}{'found':>8}   wanted")
    for name, value, wanted in rows:
        print(f"{name:48}{value:8.2f}   {wanted}")


if __name__ == "__main__":
    main()
