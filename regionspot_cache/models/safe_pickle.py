"""Reads numpy arrays in plain containers out of a pickle without running anything in it.

A pickle is a program. Here the only names it may ask for are the ones numpy writes, and each is answered by
a stand-in of this module that merely records its arguments; arrays are then built with checks. Every other
name is refused before anything is called.
"""

import pickle
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from regionspot_cache.errors import InputError
from regionspot_cache.files import open_file

_PLAIN_DTYPE = re.compile(r"[fiub][1248]")


class _RefusedError(Exception):
    """The pickle asks for something that arrays do not need."""


class _Dtype:
    """Stands for numpy.dtype(spec, align, copy)."""

    def __init__(self, spec: object, *_: object) -> None:
        if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
            raise _RefusedError(f"an array of dtype {spec!r}")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise _RefusedError(f"byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for an array while it is being rebuilt; `value` holds it afterwards."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        self._fill(raw, dtype, shape, "F" if fortran else "C")

    def _fill(self, raw: object, dtype: object, shape: object, order: object) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
            raise _RefusedError("an array in an unusual form")
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise _RefusedError(f"an array of shape {shape!r}")
        self.value = np.frombuffer(raw, dtype=dtype.dtype).reshape(shape, order=order)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(raw: object, dtype: object, shape: object, order: object, *_: object) -> _Array:
    array = _Array()
    array._fill(bytes(raw) if isinstance(raw, pickle.PickleBuffer) else raw, dtype, shape, order)
    return array


def _scalar(dtype: object, raw: object) -> _Array:
    array = _Array()
    array._fill(raw, dtype, (), "C")
    return array


def _latin1(text: object, encoding: object) -> bytes:
    # How pickle protocols 0 to 2 carry bytes.
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError(f"encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    # The same protocols spell b"" as a call of bytes; with an argument it could ask for any amount of memory.
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _latin1,
    ("__builtin__", "bytes"): _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _from_buffer


def _load_bytearray8(unpickler: Any) -> None:
    # The library's own fills memory of the length that the pickle claims before it reads.
    (length,) = struct.unpack("<Q", unpickler.read(8))
    data = unpickler.read(length)
    if len(data) < length:
        raise EOFError("the pickle ends within a bytearray")
    unpickler.append(bytearray(data))


# The unpickler that is written in Python: the one in C makes a table as long as the largest number that a
# pickle gives to a value, up to 64 GiB for a file of six bytes.
class _ArrayUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        raise _RefusedError(f"a persistent object {pid!r}")

    dispatch = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray8}  # noqa: RUF012


def load_arrays(path: Path) -> Any:
    """Reads a pickle of lists, tuples, dicts, strings, numbers and numpy arrays.

    Raises:
        MissingFileError: no such file.
        InputError: the pickle is broken or holds anything else; nothing in it has been executed.
    """
    with open_file(path, "a Detectron2 box_proposals.pkl") as file:
        return _loaded(file, path)


def _loaded(file: BinaryIO, path: Path) -> Any:
    try:
        return _unwrap(_ArrayUnpickler(file).load())
    except _RefusedError as refused:
        raise InputError(
            f"{path}: the pickle asks for {refused}, which was not executed",
            "only numbers, strings, lists, dicts and numpy arrays of numbers",
            "convert the file to a COCO results list (.json) or to .npz where it was made",
        ) from None
    except Exception as error:  # a broken pickle can raise nearly anything
        raise InputError(
            f"{path}: not a readable pickle ({type(error).__name__}: {error})",
            "a Detectron2 box_proposals.pkl",
            "copy the file again, or convert it to .json or .npz",
        ) from None


def _unwrap(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value if value.value.ndim else value.value.item()
    if isinstance(value, dict):
        return {_unwrap(key): _unwrap(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unwrap(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_unwrap(item) for item in value)
    return value
