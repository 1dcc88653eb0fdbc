"""What TRIPLEX saves by encoding a section once for all spots of a batch, from one run on the same data.

    python benchmarks/triplex.py [--quick] [--spots 1000] [--batch 128] [--chunk 16] [--dim 256]

A step (forward and backward) over a batch of spots of one section, in two ways: the section encoded once for the batch,
or anew for every chunk of spots. Weights are the same, and so are the gradients. `--quick` runs a narrow network on a
small section: it shows that everything runs.
"""

from __future__ import annotations

import argparse
import math

import torch
from sequoia import median_times

import stpredict as stp
from stpredict.models import Batch, Predictor, Sections

GENES, WIDTH = 250, 512


def section(n: int) -> dict[str, torch.Tensor]:
    """Features of a square section, and of the tiles around its spots."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, WIDTH, generator=generator)
    side = math.isqrt(n - 1) + 1
    cell = torch.stack([torch.arange(n) // side, torch.arange(n) % side], dim=1)
    return {"section_features": features, "section_cell": cell}


def batch_of(whole: dict[str, torch.Tensor], rows: torch.Tensor) -> Batch:
    """Some spots of the section."""
    n = len(whole["section_features"])
    features = whole["section_features"][rows]
    generator = torch.Generator().manual_seed(1)
    neighbors = torch.randn(n, 25, WIDTH, generator=generator)[rows]
    target = torch.randn(n, GENES, generator=generator)[rows]
    none = torch.zeros(len(rows), dtype=torch.long)
    inputs = {"features": features, "neighbors": neighbors, "neighbor_mask": torch.ones(len(rows), 25).bool(), **whole}
    return Batch(none, none, inputs, target=target, sections=Sections(torch.zeros(n, dtype=torch.long), rows))


def step(network: Predictor, batches: list[Batch]) -> torch.Tensor:
    """Gradient of the mean loss over all spots of the batches."""
    network.zero_grad()
    n = sum(map(len, batches))
    for batch in batches:
        (network.step(batch, network.stages[0])["total"] * len(batch) / n).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def main() -> None:
    """Print the times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    for name, default in (("spots", 1000), ("batch", 128), ("chunk", 16), ("dim", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    if options.quick:
        options.spots, options.batch, options.dim = 100, 32, 32
    widths = dict.fromkeys(("features", "neighbors", "section_features"), WIDTH)
    sizes = {"dim": options.dim, "dropout": (0.0, 0.0, 0.0)}
    network = stp.models.build("triplex", GENES, widths, hyperparameters=sizes, seed=0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    whole, rows = section(options.spots), torch.arange(options.batch)
    together = [batch_of(whole, rows)]
    apart = [batch_of(whole, part) for part in rows.split(options.chunk)]
    torch.testing.assert_close(step(network, together), step(network, apart), rtol=1e-2, atol=1e-5)
    ways = {"once": lambda: step(network, together), "per chunk": lambda: step(network, apart)}
    times = median_times(ways, 1 if options.quick else 5, torch.device("cpu"))
    print(f"{options.spots} spots in the section, {options.batch} in the batch, width {options.dim}")
    print(f"section encoded once: {1000 * times['once']:.0f} ms per step")
    print(f"section encoded for every {options.chunk} spots: {1000 * times['per chunk']:.0f} ms per step")
    print(f"ratio: {times['per chunk'] / times['once']:.1f}")


if __name__ == "__main__":
    main()
