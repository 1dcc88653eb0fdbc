"""Seconds that `import stpredict` takes in a fresh interpreter, and which heavy packages it loads (none).

python benchmarks/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

_CODE = """
import sys, time
start = time.perf_counter()
import stpredict
print(time.perf_counter() - start)
print(*sorted({"torch", "anndata", "scanpy", "squidpy", "matplotlib", "pandas", "spatialdata"} & set(sys.modules)))
"""


def main() -> None:
    runs = [subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True) for _ in range(5)]
    seconds, loaded = zip(*(run.stdout.splitlines() for run in runs), strict=True)
    print(f"import stpredict: {statistics.median(map(float, seconds)):.3f} s (median of {len(runs)})")
    print(f"heavy packages loaded: {loaded[0] or 'none'}")


if __name__ == "__main__":
    main()
