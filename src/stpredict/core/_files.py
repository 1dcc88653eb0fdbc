"""Text files as other programs write them: encodings, compression, separators, and errors that name the file."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._validate import few

if TYPE_CHECKING:
    import pandas as pd

_GZIP = b"\x1f\x8b"
_MARKS = (  # the longer ones first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_HEAD = 4096  # bytes that tell the encoding of a text without a mark


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """First of some names that a folder holds, plain or with `.gz` behind it."""
    return next(
        (folder / (name + end) for name in names for end in ("", ".gz") if (folder / (name + end)).is_file()), None
    )


@contextmanager
def damage_named(path: Path, what: str) -> Iterator[None]:
    """Turn what libraries raise on a damaged file into a `ValueError` with its name; `what` is what it should hold.

    Errors of the package pass as they are, and so does a missing file.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:
        # gzip, the parsers of tables and Arrow raise exceptions of many kinds for damaged files.
        if str(error).startswith("expected "):
            raise
        found = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"expected {what} in {path}; found an empty or damaged file ({found}); fetch or write it again"
        ) from error


def read_bytes(path: Path, what: str) -> bytes:
    """Content of a file, unpacked where it is gzip, whatever its name; `what` is what the file should hold."""
    with damage_named(path, what):
        data = path.read_bytes()
        return gzip.decompress(data) if data.startswith(_GZIP) else data


def read_text(path: Path, what: str) -> str:
    """Text of a file, plain or gzip, in UTF-8, UTF-16, UTF-32 or Windows' own encoding, with plain line ends."""
    data = read_bytes(path, what)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _guess(data[:_HEAD])
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        # Neither of the families of Unicode: what Excel and R write on Windows, where every byte is a letter.
        text = data.decode("cp1252" if encoding == "utf-8" else encoding, errors="replace")
        if "\N{REPLACEMENT CHARACTER}" in text:
            raise ValueError(f"expected {what} in {path}; found bytes that are no text ({encoding})") from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\x1a")
    if strange := _CONTROL.search(text):
        raise ValueError(
            f"expected {what} in {path}; found a damaged file, with the byte {ord(strange.group()):#04x} in its text; fetch "
            "or write it again"
        )
    return text


def read_json(path: Path, what: str, *, gaps: bool = False) -> dict[str, Any]:
    """Object of a JSON file, plain or gzip; with `gaps`, the NaN that Python writes for what is missing is `None`."""
    text = read_text(path, what)
    try:
        found = json.loads(text, parse_constant=_gap if gaps else _no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {path} ({what}); found {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object in {path} ({what}); found {type(found).__name__}")
    return found


def separator(text: str, usual: str, n_columns: int = 2) -> str:
    """What separates the cells of a table of at least some columns, by its first line; `usual` where nothing does.

    The comma comes last, as it may be a decimal point between semicolons.
    """
    line = text.lstrip("\n").partition("\n")[0]
    return next((sep for sep in ("\t", ";", ",") if line.count(sep) >= n_columns - 1), usual)


def parse_table(text: str, path: Path, what: str, **options: Any) -> pd.DataFrame:
    """Table of a text by `pandas.read_csv`, whose errors name the file."""
    import pandas as pd

    with damage_named(path, what):
        return pd.read_csv(io.StringIO(text), **options)


def read_parquet(path: Path, what: str) -> pd.DataFrame:
    """Table of a parquet file."""
    import pandas as pd

    with damage_named(path, what):
        return pd.read_parquet(path)


def check_columns(table: pd.DataFrame, needed: Iterable[str], where: Path | str) -> None:
    """Raise `ValueError` unless a table has some columns."""
    columns = list(needed)
    if any(name not in table for name in columns):
        raise ValueError(
            f"expected the columns {', '.join(columns)} in {where}; found {few(table.columns, 8) or 'none'}, without "
            f"{few(name for name in columns if name not in table)}"
        )


def numbers(column: pd.Series) -> pd.Series | None:
    """Column as plain numbers, also where they are stored as text or objects; `None` with text, gaps or infinity."""
    import numpy as np
    import pandas as pd

    plain = pd.to_numeric(column, errors="coerce")
    values = plain.to_numpy(dtype=float, na_value=np.nan)
    if not np.isfinite(values).all():
        return None
    whole = plain.dtype.kind in "iub"
    return pd.Series(plain.to_numpy(dtype=np.int64) if whole else values, index=column.index, name=column.name)


def _gap(name: str) -> None:
    if name != "NaN":
        _no_number(name)


def _no_number(name: str) -> None:
    raise ValueError(f"{name}, which is no number")


def _guess(head: bytes) -> str:
    """Encoding of text without a mark: every other byte of UTF-16 is zero where it holds mostly ASCII."""
    if head[1::2].count(0) > len(head) // 5 and not head[::2].count(0):
        return "utf-16-le"
    if head[::2].count(0) > len(head) // 5 and not head[1::2].count(0):
        return "utf-16-be"
    return "utf-8"
