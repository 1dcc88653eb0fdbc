"""Damages to files, drawn by a seeded generator: what disks, networks, editors and spreadsheets do to them.

Each is a function of a `random.Random` and the content of a file, and returns another content.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

FOREIGN = (
    b"",
    b"\0" * 100,
    b"hello world\n",
    b"{}",
    b"[]",
    b"null",
    b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    b"\x1f\x8b",
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
    b"\x89HDF\r\n\x1a\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    b"II*\0\x08\0\0\0",
    b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
    b"PAR1",
    b"PK\x05\x06" + b"\0" * 18,
    b"\x93NUMPY\x01\0v\0",
)
CELLS = (
    "", "NA", "nan", "inf", "-inf", "-1", "0", "1", "1.5", "1e308", "1e400", "-1e30", "99999999999999999999", "0x10",
    "9223372036854775807", "abc", "1,5", "1.234,5", "\u00e9", "\N{GREEK SMALL LETTER MU}", "True", "FALSE", "yes", " 3 ", '"', '""', "'",
    "\t", ",", "#", "=1+1", "NULL", "\0", "\x07", "\u2028", "\ufeff", "1_000", "+3", "1 2", "a" * 3000,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 1.5, 1e308, -1e308, 10**30, 2**31, 2**63, float("nan"), float("inf"), "", "text",
    "1", "nan", "../x", [], [[]], [1, 2], ["a"], {}, {"a": 1}, [None],
)  # fmt: skip


# Bytes


def flip(rng: Random, data: bytes) -> bytes:
    """Flip a bit."""
    out = bytearray(data)
    out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_head(rng: Random, data: bytes) -> bytes:
    """Flip a bit near the begin, where the sizes stand."""
    out = bytearray(data)
    out[rng.randrange(min(len(out), 128))] ^= 1 << rng.randrange(8)
    return bytes(out)


def scatter(rng: Random, data: bytes) -> bytes:
    """Write other bytes at ten places."""
    out = bytearray(data)
    for _ in range(10):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def header(rng: Random, data: bytes) -> bytes:
    """Write noise over the begin."""
    return rng.randbytes(rng.choice((4, 8, 16, 64))) + data[16:]


def cut(rng: Random, data: bytes) -> bytes:
    """Break off."""
    return data[: rng.randrange(len(data))]


def cut_little(rng: Random, data: bytes) -> bytes:
    """Break off just before the end."""
    return data[: -min(len(data), rng.randrange(1, 20))]


def zeros(rng: Random, data: bytes) -> bytes:
    """Empty a block."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((8, 200, 4096)))
    return data[:start] + bytes(stop - start) + data[stop:]


def swap(rng: Random, data: bytes) -> bytes:
    """Exchange two parts."""
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def insert(rng: Random, data: bytes) -> bytes:
    """Put noise between."""
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 20)) + data[place:]


def delete(rng: Random, data: bytes) -> bytes:
    """Leave a part out."""
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 50) :]


def repeat(rng: Random, data: bytes) -> bytes:
    """Write a part twice."""
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b] + data[b:]


def absurd(rng: Random, data: bytes) -> bytes:
    """Write an absurd number of two, four or eight bytes."""
    number = rng.choice(
        (b"\xff\xff", b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 3, b"\xff" * 3 + b"\x7f", b"\0\0\0\x40")
    )
    start = rng.randrange(rng.choice((min(len(data), 64), len(data))))
    return data[:start] + number + data[start + len(number) :]


def foreign(rng: Random, data: bytes) -> bytes:
    """Put a file of another kind in its place, or nothing."""
    return rng.choice(FOREIGN)


def trailing(rng: Random, data: bytes) -> bytes:
    """Write something behind the end."""
    return data + rng.choice((b"\0" * 50, b"\n\n\n", b"garbage", data[:100]))


BYTES: tuple[Mutation, ...] = (
    flip, flip_head, scatter, header, cut, cut_little, zeros, swap, insert, delete, repeat, absurd, foreign, trailing,
)  # fmt: skip


# Text and tables


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").splitlines()


def _joined(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _separator(lines: list[str]) -> str:
    return max("\t, ", key=lambda sep: sum(line.count(sep) for line in lines[:20]))


def cell(rng: Random, data: bytes) -> bytes:
    """Write something else into a cell."""
    lines = _lines(data)
    row, sep = rng.randrange(len(lines)), _separator(lines)
    cells = lines[row].split(sep)
    cells[rng.randrange(len(cells))] = rng.choice(CELLS)
    lines[row] = sep.join(cells)
    return _joined(lines)


def copied_cell(rng: Random, data: bytes) -> bytes:
    """Write a cell of the table into another one."""
    lines = _lines(data)
    sep, row = _separator(lines), rng.randrange(len(lines))
    cells = lines[row].split(sep)
    cells[rng.randrange(len(cells))] = rng.choice(lines[rng.randrange(len(lines))].split(sep))
    lines[row] = sep.join(cells)
    return _joined(lines)


def column(rng: Random, data: bytes) -> bytes:
    """Drop, repeat, exchange or fill a column."""
    lines = _lines(data)
    sep = _separator(lines)
    table = [line.split(sep) for line in lines]
    width = max(map(len, table))
    a, b, value, how = rng.randrange(width), rng.randrange(width), rng.choice(CELLS), rng.randrange(4)
    for cells in table:
        if max(a, b) >= len(cells):
            continue
        if how == 0:
            del cells[a]
        elif how == 1:
            cells.insert(a, cells[b])
        elif how == 2:
            cells[a], cells[b] = cells[b], cells[a]
        else:
            cells[a] = value
    return _joined([sep.join(cells) for cells in table])


def line(rng: Random, data: bytes) -> bytes:
    """Drop, repeat, exchange, empty, cut or join lines."""
    lines = _lines(data)
    a, b, how = rng.randrange(len(lines)), rng.randrange(len(lines)), rng.randrange(7)
    if how == 0:
        del lines[a]
    elif how == 1:
        lines.insert(b, lines[a])
    elif how == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif how == 3:
        lines[a] = ""
    elif how == 4:
        lines[a] = lines[a][: rng.randrange(len(lines[a]) + 1)]
    elif how == 5:
        lines[a : a + 2] = ["".join(lines[a : a + 2])]
    else:
        del lines[min(a, b) : max(a, b)]
    return _joined(lines)


def first_line(rng: Random, data: bytes) -> bytes:
    """Drop, repeat or change the header, or write something above it."""
    lines = _lines(data)
    how = rng.randrange(5)
    if how == 0:
        lines = lines[1:]
    elif how == 1:
        lines.insert(0, lines[0])
    elif how == 2:
        lines[0] = lines[0].upper()
    elif how == 3:
        lines.insert(0, rng.choice(("# made by a program", "", "sep=,", '"', "Sheet1")))
    else:
        lines = lines[:1]
    return _joined(lines)


def separators(rng: Random, data: bytes) -> bytes:
    """Separate the cells by something else, everywhere or in one line."""
    lines = _lines(data)
    sep, other = _separator(lines), rng.choice((",", ";", "\t", " ", "|", ""))
    rows = range(len(lines)) if rng.random() < 0.5 else [rng.randrange(len(lines))]
    for row in rows:
        lines[row] = lines[row].replace(sep, other)
    return _joined(lines)


def quotes(rng: Random, data: bytes) -> bytes:
    """Quote cells, or open a quote that nothing closes."""
    lines = _lines(data)
    sep, row = _separator(lines), rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines = [sep.join(f'"{part}"' for part in text.split(sep)) for text in lines]
    else:
        lines[row] = rng.choice(('"', "'", '"""')) + lines[row]
    return _joined(lines)


def encoding(rng: Random, data: bytes) -> bytes:
    """Write the text in another encoding, or with other line ends."""
    text = data.decode("utf-8", "replace")
    if rng.random() < 0.3:
        return text.replace("\n", rng.choice(("\r\n", "\r", "\n\n", "\v"))).encode()
    text = rng.choice(("", "\u00e9", "\N{GREEK SMALL LETTER MU}")) + text
    return text.encode(
        rng.choice(("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "latin-1", "cp1252", "cp037")), "replace"
    )


TEXT: tuple[Mutation, ...] = (cell, cell, copied_cell, column, line, first_line, separators, quotes, encoding)


# JSON and the headers of safetensors


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the values of a tree of JSON stand."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in items for place in _places(inner, (*path, key))]


def _changed_tree(rng: Random, tree: Any) -> Any:
    places = _places(tree)
    if not places:
        return rng.choice(VALUES)
    depth = rng.choice(sorted({len(place) for place in places}))  # else lists of numbers get all of them
    *path, key = rng.choice([place for place in places if len(place) == depth])
    inside = tree
    for step in path:
        inside = inside[step]
    how = rng.randrange(6)
    if how == 0:
        del inside[key]
    elif how == 1 and isinstance(inside, dict):
        inside[f"{key}x"] = inside.pop(key)
    elif how == 2 and isinstance(inside, dict):
        inside["unknown"] = rng.choice(VALUES)
    elif how == 3 and isinstance(inside[key], int | float):
        inside[key] = inside[key] * rng.choice((-1, 2, 1000, 10**9)) + rng.choice((0, 1))
    else:
        inside[key] = rng.choice(VALUES)
    return tree


def tree(rng: Random, data: bytes) -> bytes:
    """Change, drop, rename or add a value of JSON."""
    return json.dumps(_changed_tree(rng, json.loads(data)), indent=rng.choice((None, 2))).encode()


def nested(rng: Random, data: bytes) -> bytes:
    """Nest JSON so deeply that parsers give up."""
    return b"[" * 100_000 + data


JSON: tuple[Mutation, ...] = (*([tree] * 8), nested, line, encoding)


def tensors_header(rng: Random, data: bytes) -> bytes:
    """Change the header of a safetensors file: types, shapes, offsets, names."""
    (size,) = struct.unpack("<Q", data[:8])
    head = json.dumps(_changed_tree(rng, json.loads(data[8 : 8 + size]))).encode()
    return struct.pack("<Q", len(head)) + head + data[8 + size :]


def tensors_length(rng: Random, data: bytes) -> bytes:
    """Claim another length of the header of a safetensors file."""
    return struct.pack("<Q", rng.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(data)))) + data[8:]


def tensors_values(rng: Random, data: bytes) -> bytes:
    """Write numbers that are none into the tensors of a safetensors file."""
    (size,) = struct.unpack("<Q", data[:8])
    place = 8 + size + 4 * rng.randrange(max(1, (len(data) - 8 - size) // 4))
    return (
        data[:place]
        + rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\xff\xff\x7f\x7f"))
        + data[place + 4 :]
    )


SAFETENSORS: tuple[Mutation, ...] = (*([tensors_header] * 4), tensors_length, tensors_values)


# Containers


def inside_gzip(mutations: tuple[Mutation, ...]) -> Mutation:
    """Damage what is packed, and pack it again."""

    def mutate(rng: Random, data: bytes) -> bytes:
        return gzip.compress(rng.choice(mutations)(rng, gzip.decompress(data)), mtime=0)

    return mutate


def inside_zip(rng: Random, data: bytes) -> bytes:
    """Damage, drop, rename or repeat a file of a zip, whose checksums fit again."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        parts = [(info.filename, file.read(info)) for info in file.infolist()]
    place, how = rng.randrange(len(parts)), rng.randrange(4)
    name, content = parts[place]
    if how == 0:
        del parts[place]
    elif how == 1:
        parts[place] = (name + "x", content)
    else:
        parts[place] = (name, rng.choice(BYTES)(rng, content or b"0"))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in parts:
            file.writestr(name, content)
    return out.getvalue()


def png_chunk(rng: Random, data: bytes) -> bytes:
    """Change a chunk of a PNG, with a checksum that fits; of the header, width, height, depth and kind of color."""
    chunks, place = [], 8
    while place + 8 <= len(data):
        (size,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    which, how = rng.choice((0, rng.randrange(len(chunks)))), rng.randrange(4)
    name, content = chunks[which]
    if how == 0 and len(content) >= 8:
        sizes = [rng.choice((0, 1, 7, 1000, 40_000, 70_000, 2**31 - 1)) for _ in range(2)]
        content = struct.pack(">II", *sizes) + content[8:]
    elif how == 1:
        del chunks[which]
    else:
        content = rng.choice((flip, scatter, cut, absurd))(rng, content or b"0")
    if how != 1:
        chunks[which] = (name, content)
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )


def tiff_tag(rng: Random, data: bytes) -> bytes:
    """Change an entry of a directory of a TIFF (little endian): tag, type, number or value."""
    place, places = struct.unpack("<I", data[4:8])[0], []
    while 0 < place < len(data) - 2 and len(places) < 500:
        (n,) = struct.unpack("<H", data[place : place + 2])
        places += [place + 2 + 12 * i for i in range(n)]
        end = place + 2 + 12 * n
        place = struct.unpack("<I", data[end : end + 4])[0] if end + 4 <= len(data) else 0
    entry = rng.choice(places)
    at, form = rng.choice(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (8, "<I")))
    limit = 16 if form == "<H" else 32
    old = struct.unpack(form, data[entry + at : entry + at + limit // 8])[0]
    new = rng.choice((0, 1, 2, 3, 8, old + 1, old - 1, 2 * old, rng.getrandbits(limit), 2**limit - 1, 2 ** (limit - 1)))
    return data[: entry + at] + struct.pack(form, new % 2**limit) + data[entry + at + limit // 8 :]


def npy_header(rng: Random, data: bytes) -> bytes:
    """Change the header of a NumPy array file."""
    (size,) = struct.unpack("<H", data[8:10])
    text = data[10 : 10 + size].decode()
    old = rng.choice(("'descr'", "<f4", "|u1", "False", "(", ",", "}", "'shape'", ")"))
    new = rng.choice(("", "|O", "<f8", "<i4", "True", "(99999999999,", "-1,", "0,", "'x'"))
    changed = text.replace(old, new, 1)[:size].ljust(size)
    return data[:10] + changed.encode() + data[10 + size :]


def h5_tree(rng: Random, data: bytes) -> bytes:
    """Change, drop, rename or exchange an array, a group or an attribute of an HDF5 file, which is whole all the same."""
    import h5py
    import numpy as np

    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name, how = rng.choice(names), rng.randrange(8)
        item = file[name]
        if how == 0:
            del file[name]
        elif how == 1:
            file.move(name, f"{name}x")
        elif how == 2 and len(item.attrs):
            item.attrs[rng.choice(sorted(item.attrs))] = rng.choice((0, -1, "text", "dict", "array", [1, 2], "9.9.9"))
        elif isinstance(item, h5py.Group):
            del file[name]
            file[name] = rng.choice((0, "text", [1, 2, 3]))
        else:
            values, attributes = np.atleast_1d(item[()]), dict(item.attrs)
            place = rng.randrange(max(1, values.size))
            if how == 3:
                values = values[: rng.randrange(len(values) + 1)]
            elif how == 4:
                values = np.concatenate([values, values[:1]])
            elif how == 5 and values.dtype.kind in "iuf":
                values = values.astype(rng.choice(("f8", "f4", "i8", "u1", "S3", "f2")))
            elif how == 6:
                values = rng.choice((values[None], np.array(3), np.array(["a", "b"], dtype="S1"), values.repeat(2)))
            elif values.size and values.dtype.kind in "iuf":
                numbers = (-1, 0, 1, 10**6) if values.dtype.kind in "iu" else (np.nan, np.inf, -1.0, 0.5, 1e30, -np.inf)
                values.flat[place] = np.array(rng.choice(numbers)).astype(values.dtype)
            elif values.size:
                values.flat[place] = rng.choice((b"", b"\xff\xfe", b"text", values.flat[0]))
            del file[name]
            file.create_dataset(name, data=values, dtype=h5py.string_dtype() if values.dtype.kind == "O" else None)
            file[name].attrs.update(attributes)
    return stream.getvalue()


def parquet_table(rng: Random, data: bytes) -> bytes:
    """Change a table of parquet, which is whole all the same."""
    import pandas as pd

    table = pd.read_parquet(io.BytesIO(data))
    name, other, how = rng.choice(list(table)), rng.choice(list(table)), rng.randrange(8)
    if how == 0:
        table = table.drop(columns=name)
    elif how == 1:
        table = table.rename(columns={name: f"{name}x"})
    elif how == 2:
        table[name] = table[name].astype(str)
    elif how == 3:
        table = table.iloc[: rng.randrange(len(table))]
    elif how == 4:
        table[name] = table[other].to_numpy()
    elif how == 5:
        table = pd.concat([table, table.iloc[:1]])
    else:
        column_ = table[name].astype(object)
        column_.iloc[rng.randrange(len(table))] = (
            rng.choice(("", "text", None))
            if isinstance(column_.iloc[0], str)
            else rng.choice((float("nan"), -1, 1e30, 1e308))
        )
        table[name] = column_
    stream = io.BytesIO()
    table.to_parquet(stream)
    return stream.getvalue()


def mutations_of(name: str, data: bytes) -> list[tuple[Mutation, ...]]:
    """Groups of damages for a file, of which one is chosen first; by its name, and by what is in it."""
    if not data:
        return [(foreign, trailing)]
    end = name.removesuffix(".gz").rpartition(".")[2]
    if data.startswith(b"\x1f\x8b"):
        return [
            BYTES,
            *((inside_gzip(group),) for group in mutations_of(name.removesuffix(".gz"), gzip.decompress(data))),
        ]
    special: dict[str, tuple[Mutation, ...]] = {
        **dict.fromkeys(("csv", "tsv", "txt", "mtx", "gmt", "gtf", "jsonl"), TEXT),
        **dict.fromkeys(("json", "geojson", "zarray", "zattrs", "zgroup", "zmetadata"), JSON),
        **dict.fromkeys(("tif", "tiff", "svs"), (tiff_tag,)),
        **dict.fromkeys(("h5", "h5ad"), (h5_tree,)),
        "safetensors": SAFETENSORS,
        "png": (png_chunk,),
        "npy": (npy_header,),
        "parquet": (parquet_table,),
    }
    groups: list[tuple[Mutation, ...]] = [BYTES]
    if data.startswith(b"PK\x03\x04"):
        groups.append((inside_zip,))
    if end in special:
        groups += [special[end]] * 2
    return groups
