"""`python -m stpredict`, which is the command `stpredict`."""

from __future__ import annotations

from stpredict.cli._main import main

if __name__ == "__main__":
    raise SystemExit(main())
