"""Ratios behind the networks on bags and their maps, each from one run on the same data.

`heads`: the network whose heads share their matrix products, against one with a loop over its heads and against its
dense matrix products alone; forward, and forward with backward. The other parts are in `sequoia_map.py`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from sequoia_map import PARTS as MAP_PARTS
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models import Batch, build

Part = Callable[[argparse.Namespace, torch.device], list[tuple[str, float, str]]]


class LoopedMixing(nn.Module):
    """The mixing as its formulas read, one head after the other."""

    def __init__(self, width: int, heads: int, d_head: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(
            nn.ModuleDict(
                {
                    "local": nn.Linear(width, d_head),
                    "local_norm": nn.LayerNorm(d_head),
                    "summary": nn.Linear(width, d_head),
                    "summary_norm": nn.LayerNorm(d_head),
                    "combine": nn.Linear(2 * d_head, d_head),
                }
            )
            for _ in range(heads)
        )
        self.projection = nn.Linear(heads * d_head, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens (n, n_tokens, width)."""
        outputs = []
        for head in self.heads:
            local = F.gelu(head["local_norm"](head["local"](tokens)))
            summary = F.gelu(head["summary_norm"](head["summary"](tokens).mean(dim=1)))
            joined = torch.cat([local, summary.unsqueeze(1).expand_as(local)], dim=-1)
            outputs.append(F.gelu(head["combine"](joined)))
        return self.projection(torch.cat(outputs, dim=-1))


class LoopedSequoia(nn.Module):
    """The network with `LoopedMixing` in its layers."""

    def __init__(self, depth: int, width: int, heads: int, d_head: int, n_genes: int) -> None:
        super().__init__()
        self.mixing = nn.ModuleList(LoopedMixing(width, heads, d_head) for _ in range(depth))
        self.feed_forward = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_genes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Predict from tokens (n, n_tokens, width)."""
        for mixing, feed_forward in zip(self.mixing, self.feed_forward, strict=True):
            tokens = tokens + mixing(tokens)
            tokens = tokens + feed_forward(tokens)
        return self.head(tokens.mean(dim=1))

    def take(self, state: dict[str, Tensor], heads: int) -> None:
        """Copy the weights of the network whose heads share their products."""

        def copy(module: nn.Module, name: str, rows: slice = slice(None)) -> None:
            module.weight.copy_(state[f"{name}.weight"][rows])
            module.bias.copy_(state[f"{name}.bias"][rows])

        with torch.no_grad():
            for i, (mixing, feed_forward) in enumerate(zip(self.mixing, self.feed_forward, strict=True)):
                name = f"layers.{i}.mixing"
                for j, head in enumerate(mixing.heads):
                    d_head = head["local"].out_features
                    for part in ("local", "summary"):
                        copy(head[part], f"{name}.{part}", slice(j * d_head, (j + 1) * d_head))
                        copy(head[f"{part}_norm"], f"{name}.{part}_norm", j)
                    head["combine"].weight.copy_(state[f"{name}.combine_weight"][j])
                    head["combine"].bias.copy_(state[f"{name}.combine_bias"][j])
                copy(mixing.projection, f"{name}.projection")
                for j in (0, 1, 3):
                    copy(feed_forward[j], f"layers.{i}.feed_forward.{j}")
            copy(self.head[0], "norm")
            copy(self.head[1], "head.mean")


def median_times(calls: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, so that a busy moment falls on all of them.

    A single thread is measured by the time it was given, so that others on the same machine matter less.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            _synchronize(device)
            start = clock()
            call()
            _synchronize(device)
            if repeat:  # the first turn warms up
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def heads(options: argparse.Namespace, device: torch.device) -> list[tuple[str, float, str]]:
    """Fused heads against a loop over heads, and against the dense products alone."""
    n, k, d, genes = options.batch_size, options.tokens, options.width, options.genes
    torch.manual_seed(0)
    fused = build("sequoia", genes, {"tokens": d}, hyperparameters={"standardize": False}).to(device)
    config = fused.config
    looped = LoopedSequoia(config.depth, d, config.heads, config.d_head, genes).to(device)
    looped.take(fused.state_dict(), config.heads)
    bag = torch.randn(n, k, d, device=device)
    none = torch.zeros(n, dtype=torch.long, device=device)
    batch = Batch(none, none, {"tokens": bag, "token_size": torch.ones(n, k, device=device)})
    upstream = torch.randn(n, genes, device=device)
    with torch.no_grad():
        difference = float((fused(batch).mean - looped(bag)).abs().max())

    # The products of one pass: (rows, inner, columns) of each, batched over heads where there is a fourth number.
    inner = config.heads * config.d_head
    layer = [(n * k, d, inner), (n, d, inner), (n * k, inner, d), (n * k, d, d), (n * k, d, d)]
    batched = [(n * k, config.d_head, config.d_head), (n, config.d_head, config.d_head)]
    operands = []
    for i in range(config.depth):
        for j, (rows, a, b) in enumerate(layer):
            first = i == 0 and j < 2  # nothing needs the gradient of the tokens that come in
            operands.append((_normal(rows, a, device), _normal(a, b, device), _normal(rows, b, device), first))
        for rows, a, b in batched:
            shapes = ((config.heads, rows, a), (config.heads, a, b), (config.heads, rows, b))
            operands.append((*(_normal(*shape, device) for shape in shapes), False))
    operands.append((_normal(n, d, device), _normal(d, genes, device), _normal(n, genes, device), False))

    def products(backward: bool) -> None:
        for left, right, out, first in operands:
            torch.matmul(left, right)
            if backward:
                torch.matmul(left.mT, out)
                if not first:
                    torch.matmul(out, right.mT)

    def step(network: nn.Module, output: Callable[[], Tensor]) -> None:
        network.zero_grad(set_to_none=True)
        (output() * upstream).sum().backward()

    def forward(output: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            output()

    calls: dict[str, Callable[[], object]] = {
        "fused": lambda: step(fused, lambda: fused(batch).mean),
        "looped": lambda: step(looped, lambda: looped(bag)),
        "products": lambda: products(True),
        "fused forward": lambda: forward(lambda: fused(batch).mean),
        "looped forward": lambda: forward(lambda: looped(bag)),
        "products forward": lambda: products(False),
    }
    seconds = median_times(calls, options.repeats, device)
    print(f"heads: batch {n} x {k} x {d}, {genes} genes, depth {config.depth}, largest difference {difference:.1e}")
    for name, value in seconds.items():
        print(f"  {name:18}{value * 1e3:10.1f} ms")
    bound = "at least 4.00" if device.type == "cuda" else "at least 1.15"
    return [
        ("looped / fused, forward + backward", seconds["looped"] / seconds["fused"], bound),
        ("fused / products, forward + backward", seconds["fused"] / seconds["products"], "at most 1.35"),
        ("looped / fused, forward", seconds["looped forward"] / seconds["fused forward"], ""),
        ("fused / products, forward", seconds["fused forward"] / seconds["products forward"], ""),
    ]


def _normal(*shape: int | torch.device) -> Tensor:
    *sizes, device = shape
    return torch.randn(sizes, device=device)


def _cpu(threads: int) -> str:
    return "CPU, 1 thread, its own time" if threads == 1 else f"CPU, {threads} threads, elapsed time"


PARTS: dict[str, Part] = {"heads": heads} | MAP_PARTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=sorted(PARTS), action="append", help="may be repeated; all by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--genes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=48, help="tiles along a side of the slide of `map`")
    parser.add_argument("--tile-px", type=int, default=224, help="input of the encoder of `map`")
    parser.add_argument("--windows", type=int, default=6, help="windows on which the naive way is timed")
    parser.add_argument("--memory-stride", type=int, default=3, help="the stride changes the time, not the peak")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for part in options.part or PARTS for row in PARTS[part](options, device)]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(options.threads)
    print(f"\n{where}, torch {torch.__version__}, median of {options.repeats}")
    print(f"{'ratio':48}{'found':>8}   wanted")
    for name, value, wanted in rows:
        print(f"{name:48}{value:8.2f}   {wanted}")


if __name__ == "__main__":
    main()
