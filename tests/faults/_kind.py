"""What a kind of file is: how it is made and read, and how an answer is judged."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ._mutations import mutations_of

Answer = Mapping[str, Any]

#: What may become of a damaged file. "same" and "helpful" are always right, "other" is right where nothing tells the
#: damage from another content: another number in a table is another number. "unread" is the failure of another program
#: that users read the file with. All others are failures.
RIGHT = ("same", "helpful", "other", "unread")
WRONG = ("raw", "unfinite", "silent", "crash", "hang", "memory")
VERDICTS = (*RIGHT, *WRONG)

_DOCUMENTED = (ValueError, KeyError, TypeError, FileNotFoundError)


def note(phase: str) -> None:
    """Tell the parent process that another program reads now ("foreign"), or the package again ("ours")."""
    if send is not None:
        send(phase)


send: Callable[[str], None] | None = None


class Unread(Exception):
    """Another program, with which users read such files, refused one."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that the package reads.

    Attributes
    ----------
    name
        What it is, in the table of counts.
    make
        Writes whole files into an empty folder.
    read
        Reads them as a user does, and returns arrays and texts.
    files
        Patterns of the files to be damaged.
    n
        Damages in the quick run.
    sealed
        Whether the files carry a digest: then another answer than that of the whole files is a failure.
    rewrites
        Whether reading writes, so that the folder is copied anew for every damage.
    errors
        Exceptions that the calls document besides ValueError, KeyError, TypeError and FileNotFoundError.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Answer]
    files: tuple[str, ...]
    n: int
    sealed: bool = False
    rewrites: bool = False
    errors: tuple[type[Exception], ...] = ()

    def damage(self, rng: Random, folder: Path) -> tuple[str, str]:
        """Damage one file; tell which and how."""
        paths = sorted({path for pattern in self.files for path in folder.glob(pattern) if path.is_file()})
        path = rng.choice(paths)
        what = path.relative_to(folder).as_posix()
        chance = rng.random()
        if chance < 0.02:
            path.unlink()
            return what, "removed"
        if chance < 0.03:
            path.unlink()
            path.mkdir()
            return what, "a folder"
        data = path.read_bytes()
        if chance < 0.05:
            path.write_bytes(rng.choice(paths).read_bytes())
            return what, "exchanged"
        mutation = rng.choice(rng.choice(mutations_of(path.name, data)))
        path.write_bytes(mutation(rng, data))
        return what, mutation.__name__

    def judge(self, folder: Path, whole: Answer) -> tuple[str, str]:
        """Read damaged files; return a verdict and what led to it."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                answer = self.read(folder)
            except Unread as error:
                return "unread", str(error)
            except MemoryError as error:
                return "memory", repr(error)
            except Exception as error:  # noqa: BLE001
                # Which exceptions come is what is asked.
                text = str(error)
                helpful = isinstance(error, (*_DOCUMENTED, *self.errors)) and "expected" in text and "found" in text
                return "helpful" if helpful else "raw", f"{type(error).__name__}: {text} {_place(error)}"
        for warning in said:
            if issubclass(warning.category, RuntimeWarning):
                return "raw", f"{warning.category.__name__}: {warning.message} ({warning.filename}:{warning.lineno})"
        if same(answer, whole):
            return "same", ""
        if unfinite(answer) > unfinite(whole) and not any("NaN" in str(w.message) for w in said):
            return "unfinite", ", ".join(name for name in answer if unfinite({name: answer[name]}))
        return ("silent" if self.sealed else "other"), ", ".join(
            name for name in answer if not same({name: answer[name]}, {name: whole.get(name)})
        )

    def restore(self, pristine: Path, folder: Path, what: str | None) -> None:
        """Make a folder whole again, of which one file was damaged."""
        if self.rewrites or what is None or not folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(pristine, folder)
            return
        path = folder / what
        if path.is_dir():
            shutil.rmtree(path)
        shutil.copyfile(pristine / what, path)


def _place(error: BaseException) -> str:
    """Innermost lines of the package that an error came through."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "stpredict" in name:
            lines.append(f"{Path(name).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"[{' '.join(lines[-2:])}]"


def same(one: Any, two: Any) -> bool:
    """Whether two answers are equal, bit for bit in their arrays."""
    import numpy as np

    if isinstance(one, Mapping):
        return isinstance(two, Mapping) and one.keys() == two.keys() and all(same(one[k], two[k]) for k in one)
    if isinstance(one, np.ndarray) or isinstance(two, np.ndarray):
        one, two = np.asarray(one), np.asarray(two)
        return (
            one.shape == two.shape
            and one.dtype == two.dtype
            and (one.tolist() == two.tolist() if one.dtype == object else one.tobytes() == two.tobytes())
        )
    return repr(one) == repr(two)


def unfinite(answer: Any) -> int:
    """Number of values of an answer that are not finite."""
    import numpy as np

    if isinstance(answer, Mapping):
        return sum(unfinite(value) for value in answer.values())
    if isinstance(answer, (list, tuple)):
        return sum(unfinite(value) for value in answer)
    if isinstance(answer, (float, np.floating)) or (isinstance(answer, np.ndarray) and answer.dtype.kind in "fc"):
        return int((~np.isfinite(answer)).sum())
    return 0
