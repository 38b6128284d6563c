"""Pickles of arrays and tensors, and the files of torch.save that have one in them, read without running any code.

A pickle is a program. Here it can build dictionaries, lists and numbers, and stand-ins for the few classes that arrays and
tensors are made of; whatever else it asks for is refused. It takes no more time and memory than its size is worth, which
neither Python's own reader in C nor PyTorch's grants: a key t = (t, t), sixty times over, has a hash that takes years.
"""

from __future__ import annotations

import io
import mmap
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, ClassVar

import numpy as np

from helpers.checkpoints.contents import LEGACY, TORCH, Kind
from helpers.checkpoints.tensors import Tensors, widened
from helpers.errors import InputError
from helpers.reading import SMALL

NESTED = ("model", "state_dict")  # where training scripts keep the state dict
MOST_STEPS = 1_000_000  # of a pickle, which takes some 40 a tensor
MOST_LARGER = 20  # how many times as large as its file a file's content may be; weights hardly shrink at all, or are shared


def read(path: Path, kind: Kind) -> Tensors:
    """The tensors of a dictionary (name → array, tensor or number), flat or under a key of NESTED.

    Args:
        kind: what the file is.

    Raises:
        InputError: it is damaged, or asks for anything but arrays and tensors.
    """
    try:
        state = load(path, kind)
        for key in NESTED:
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
        known = isinstance(state, dict)
        entries = {name: entry(value) for name, value in state.items() if isinstance(name, str)} if known else {}
    except Exception as e:  # a damaged file can raise whatever its parts raise
        raise refusal(path, kind, e) from e
    if sum(each.nbytes for each in entries.values() if isinstance(each, np.ndarray)) > MOST_LARGER * path.stat().st_size:
        raise refusal(path, kind, InputError("it unpacks to far more than weights do"))
    if not known:
        raise InputError(f"{path} holds a {type(state).__name__}, not a state dict (name → tensor)")
    return Tensors.of({name: value for name, value in entries.items() if value is not None})


def load(path: Path, kind: Kind) -> Any:
    """What a file holds. It may raise anything."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if kind is not TORCH:
            return Unpickler(mapped, Steps(len(mapped))).load()
        if mapped[:2] == b"PK":
            return Archive(path, file).load()
        return Legacy(np.memmap(path, np.uint8, "r"), mapped, Steps(len(mapped))).load()


def entry(value: Any) -> np.ndarray | str | None:
    """What stands in a dictionary: an array of floats, or the dtype of another tensor; None for what is no tensor."""
    if isinstance(value, (PickledArray, Tensor)):
        return value.content
    return np.float32(value).reshape(1) if isinstance(value, float) else None


def refusal(path: Path, kind: Kind, error: Exception) -> InputError:
    if kind is TORCH:
        return InputError(f"{path} is not a PyTorch state dict that can be read safely: {reason(error)}")
    if isinstance(error, InputError):
        return InputError(f"{path} is not a pickle that can be read safely: {error}")
    return InputError(f"{path} is not a whole pickle of arrays: {reason(error)}")


def reason(error: Exception) -> str:
    """What went wrong, in one short line."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, (EOFError, struct.error)):
        return "it ends too early"
    return " ".join(ascii(f"{type(error).__name__}: {error}"[:200])[1:-1].split()).rstrip(": ")


# The program


class Steps:
    """What a program may yet do: so many steps, and work for as many bytes as its file has."""

    def __init__(self, size: int) -> None:
        self._steps, self._bytes = MOST_STEPS, size + SMALL

    def take(self, steps: int = 0, size: int = 0) -> None:
        self._steps -= steps
        self._bytes -= size
        if min(self._steps, self._bytes) < 0:
            raise InputError("it takes more steps than a state dict needs")


class Unpickler(pickle._Unpickler):
    """Runs a pickle.

    Args:
        file: what it is read from, which gives no more bytes than it has, whatever number it is asked for.
        steps: that it may take.
        storage: what a tensor's numbers are, by the identity that torch.save gives them.
    """

    stack: list[Any]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: Any, steps: Steps, storage: Callable[[Any], Any] | None = None) -> None:
        super().__init__(file)
        self._steps, self._storage = steps, storage
        self.dispatch = Table(steps)  # type: ignore[assignment, misc]  # of the instance, in the place of the class's

    def persistent_load(self, identity: Any) -> Any:
        if self._storage is None:
            raise InputError("it asks for what is not in it")
        return self._storage(identity)

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        # Python's and torch.save's own are bound to the steps that are left.
        bound = {"collections.OrderedDict": self.ordered, "_codecs.encode": self.encode}
        if self._storage is None:  # a file of torch.save has none within its storages
            bound["torch.storage._load_from_bytes"] = self.storage_of
        found = bound.get(asked) or PARTS.get(asked) or storage_type(asked)
        if found is None:
            asked = ascii(f"{module}.{name}"[:200])[1:-1]  # a name may hold anything, even what a terminal obeys
            raise InputError(f"it asks for {asked}, which no array needs")
        return found

    def get_extension(self, code: int) -> None:
        raise InputError(f"it asks for extension {code}, which no array needs")

    # What it may call

    def ordered(self, pairs: Any = ()) -> StateDict:
        if not isinstance(pairs, (list, tuple)):
            raise TypeError("a dictionary is made of pairs")
        self._steps.take(len(pairs))
        made = StateDict()
        for pair in pairs:
            set_items(made, pair)
        return made

    def encode(self, text: Any, *_: Any) -> bytes:
        """Protocol 2 writes bytes as text."""
        if not isinstance(text, str):
            raise TypeError("only text is encoded")
        self._steps.take(size=len(text))
        return text.encode("latin1")

    def storage_of(self, data: Any) -> Storage:
        """A storage that was pickled by itself: as a file of torch.save."""
        if not isinstance(data, bytes) or not data.startswith(LEGACY):
            raise TypeError("a storage must be as torch.save writes it")
        found = Legacy(np.frombuffer(data, np.uint8), io.BytesIO(data), self._steps).load()
        if not isinstance(found, Storage):
            raise TypeError(f"a {type(found).__name__} is no storage")
        return found

    # What Python's own does too freely

    def fill(self) -> None:
        items = self.pop_mark()
        set_items(self.stack[-1], items)

    def fill_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        set_items(self.stack[-1], [key, value])

    def make(self) -> None:
        items = self.pop_mark()
        self.stack.append(set_items({}, items))

    def add(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set):
            raise TypeError("only a set is added to")
        self.stack[-1].update(map(plain, items))

    def freeze(self) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(plain, items)))

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, (StateDict, PickledDtype, PickledArray, Tensor)):
            raise TypeError(f"a {type(made).__name__} has no state")
        made.__setstate__(state)

    def array_of_bytes(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.stack.append(bytearray(self.read(size)))


class Table:
    """What is done for each code, each of which takes a step."""

    done: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.SETITEMS[0]: Unpickler.fill,
        pickle.SETITEM[0]: Unpickler.fill_one,
        pickle.DICT[0]: Unpickler.make,
        pickle.ADDITEMS[0]: Unpickler.add,
        pickle.FROZENSET[0]: Unpickler.freeze,
        pickle.BUILD[0]: Unpickler.build,
        pickle.BYTEARRAY8[0]: Unpickler.array_of_bytes,
    }

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._steps.take(1)
        return self.done[code]


PLAIN = (str, bytes, int, float, bool, type(None))


def plain(key: Any) -> Any:
    """A key, whose hash is to be taken."""
    if isinstance(key, PLAIN) or (isinstance(key, tuple) and len(key) < 10 and all(isinstance(part, PLAIN) for part in key)):
        return key
    raise TypeError(f"a {type(key).__name__} is no name of a tensor")


def set_items(into: Any, items: Any) -> Any:
    """Puts into a dictionary what stands in turn: a key, its value, a key."""
    if not (isinstance(into, dict) and isinstance(items, (list, tuple))):
        raise TypeError(f"a {type(into).__name__} is no dictionary")
    for key, value in zip(items[::2], items[1::2]):
        into[plain(key)] = value
    return into


def whole(values: Any) -> tuple[int, ...]:
    """Sizes: whole numbers, none below 0."""
    few = isinstance(values, (tuple, list)) and len(values) <= 64
    if not (few and all(type(value) is int and value >= 0 for value in values)):
        raise TypeError("sizes must be some whole numbers")
    return tuple(values)


# NumPy's stand-ins


class StateDict(dict[str, Any]):
    """Stands for an OrderedDict, of which a PyTorch module's has notes beside its entries."""

    def __setstate__(self, state: Any) -> None:
        pass


class PickledDtype:
    """Stands for numpy.dtype. NumPy's own takes any state, such as one that turns an array's bytes into pointers."""

    order: Any = "="

    def __init__(self, code: Any = None, *_: Any) -> None:
        if not isinstance(code, str):
            raise TypeError("a dtype must be named")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if not isinstance(order, str):
            raise TypeError("a byte order must be named")
        self.order = order

    def read(self, data: Any, shape: Any, order: str) -> np.ndarray | str:
        """The array [shape] that `data` holds, or the name of its dtype where its elements are not floats."""
        sizes = whole(shape)
        if not re.fullmatch(r"f\d+", self.code):
            return np.dtype(self.code).name if re.fullmatch(r"[iubc]\d+", self.code) else "other"
        if not isinstance(data, (bytes, bytearray)):
            raise TypeError("an array's content must be bytes")
        return np.frombuffer(data, np.dtype(self.code).newbyteorder(self.order)).reshape(
            sizes, order="F" if order == "F" else "C"
        )


class PickledArray:
    """Stands for a NumPy array, which is made empty first and then given its content."""

    content: np.ndarray | str | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.content = as_dtype(dtype).read(data, shape, "F" if fortran is True else "C")

    @classmethod
    def scalar(cls, dtype: Any, data: Any) -> PickledArray:
        return cls.buffer(data, dtype, (1,), "C")

    @classmethod
    def buffer(cls, data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> PickledArray:
        if order not in ("C", "F"):
            raise TypeError("an array lies by rows or by columns")
        made = cls()
        made.content = as_dtype(dtype).read(data, shape, order)
        return made


def as_dtype(value: Any) -> PickledDtype:
    if not isinstance(value, PickledDtype):
        raise TypeError(f"a {type(value).__name__} is no dtype")
    return value


# PyTorch's

STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "QInt8": "qint8",
    "QUInt8": "quint8",
    "QInt32": "qint32",
    "Untyped": "uint8",
}
WIDTHS = {"bfloat16": 2, "bool": 1, "qint8": 1, "quint8": 1, "qint32": 4}  # bytes, where NumPy has no such dtype
FLOATS = ("float16", "float32", "float64", "bfloat16")


class Dtype(str):
    """The name of a dtype, where a pickle names a type of storage or a dtype."""


def storage_type(asked: str) -> Dtype | None:
    found = re.fullmatch(r"torch\.(?:storage\.)?(\w+)Storage", asked)
    if found and found[1] in STORAGES:
        return Dtype(STORAGES[found[1]])
    found = re.fullmatch(r"torch\.((?:b?float|u?int|complex|q?u?int|bool)\w*)", asked)
    return Dtype(found[1]) if found else None


class Storage:
    """Numbers of a dtype, one after the other. Files of the older kind tell them after the tensors that have them."""

    def __init__(self, dtype: str, data: np.ndarray | None = None, order: Any = "<") -> None:
        self.dtype, self.data, self.order = dtype, data, order


class Tensor:
    """Stands for a tensor: a view of a storage, or the dtype of one that is no plain array of floats."""

    def __init__(self, storage: Storage | str, offset: int = 0, size: tuple[int, ...] = (), stride: tuple[int, ...] = ()) -> None:
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def __setstate__(self, state: Any) -> None:
        """Attributes of a tensor's own, which are nothing to us."""

    @classmethod
    def rebuilt(cls, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
        if not isinstance(storage, Storage):
            raise TypeError(f"a {type(storage).__name__} is no storage")
        dtype = next((value for value in rest if isinstance(value, Dtype)), None)  # told where the storage is untyped
        storage = storage if dtype is None else Storage(dtype, storage.data, storage.order)
        sizes, strides, [start] = whole(size), whole(stride), whole([offset])
        if len(sizes) != len(strides):
            raise TypeError("sizes and strides must be as many")
        return cls(storage, start, sizes, strides)

    @classmethod
    def other(cls, told: str) -> Callable[..., Tensor]:
        return lambda *_: cls(told)

    @property
    def content(self) -> np.ndarray | str:
        """The array, which lies in the file and is not copied if its dtype allows, or the name of its dtype."""
        if isinstance(self.storage, str):
            return self.storage
        dtype, data = self.storage.dtype, self.storage.data
        if dtype not in FLOATS:
            return dtype
        if data is None:
            raise EOFError
        kind = np.dtype("u2" if dtype == "bfloat16" else dtype).newbyteorder(self.storage.order)
        numbers = np.require(data[: len(data) // kind.itemsize * kind.itemsize].view(kind), requirements="A")
        count = int(np.prod(self.size, dtype=object))
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.size, self.stride)) if count else -1
        if last >= len(numbers):
            raise ValueError("a tensor lies beyond its storage")
        if count > len(numbers):
            return f"expanded {dtype}"
        strides = [stride * kind.itemsize for stride in self.stride]
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides, writeable=False)
        return widened(view) if dtype == "bfloat16" else view


def first(value: Any, *_: Any) -> Any:
    return value


def from_type(rebuild: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """A tensor with attributes of its own."""
    if rebuild not in PARTS.values():
        raise TypeError("a tensor must be rebuilt by PyTorch's own")
    return rebuild(*arguments)


PARTS: Mapping[str, Any] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": PickledDtype,
    "numpy.core.multiarray._reconstruct": PickledArray,
    "numpy.core.multiarray.scalar": PickledArray.scalar,
    "numpy.core.numeric._frombuffer": PickledArray.buffer,
    "torch._utils._rebuild_tensor": Tensor.rebuilt,
    "torch._utils._rebuild_tensor_v2": Tensor.rebuilt,
    "torch._utils._rebuild_tensor_v3": Tensor.rebuilt,
    "torch._utils._rebuild_parameter": first,
    "torch._utils._rebuild_parameter_with_state": first,
    "torch._utils._rebuild_sparse_tensor": Tensor.other("sparse"),
    "torch._utils._rebuild_qtensor": Tensor.other("quantized"),
    "torch._utils._rebuild_meta_tensor_no_storage": Tensor.other("meta"),
    "torch._tensor._rebuild_from_type_v2": from_type,
    "torch.nn.parameter.Parameter": first,
    "torch.Tensor": Tensor.other("subclassed"),
    # What else may stand in a training script's file, which nobody here looks at
    "torch.Size": first,
    **dict.fromkeys(("torch.device", "torch.serialization._get_layout"), lambda *_: None),
    **{f"torch.per_{kind}": Dtype(kind) for kind in ("tensor_affine", "tensor_symmetric", "channel_affine", "channel_symmetric")},
}


# The files of torch.save


class Archive:
    """What torch.save writes: a zip file with the pickle and one file for each storage, as a rule not compressed."""

    def __init__(self, path: Path, file: Any) -> None:
        self._zip = zipfile.ZipFile(file)
        self._data = np.asarray(np.memmap(path, np.uint8, "r"))
        pickles = [name for name in self._zip.namelist() if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
        if len(pickles) != 1:
            raise InputError("it is a zip file, but not one of torch.save")
        self._pickle, self._prefix = pickles[0], pickles[0][: -len("data.pkl")]
        self._storages: dict[Any, np.ndarray] = {}
        entries = self._zip.infolist()
        if sum(each.file_size for each in entries) > MOST_LARGER * len(self._data):
            raise InputError("it unpacks to far more than weights do")
        big = f"{self._prefix}byteorder" in self._zip.namelist() and self._zip.read(f"{self._prefix}byteorder") == b"big"
        self._order = ">" if big else "<"

    def load(self) -> Any:
        if self._zip.getinfo(self._pickle).file_size > SMALL:
            raise InputError("it unpacks to far more than weights do")
        return Unpickler(io.BytesIO(self._zip.read(self._pickle)), Steps(SMALL), self.storage).load()

    def storage(self, identity: Any) -> Storage:
        kind, key = storage_identity(identity)
        if key not in self._storages:
            self._storages[key] = self.read(f"{self._prefix}data/{key}")
        return Storage(kind, self._storages[key], self._order)

    def read(self, name: str) -> np.ndarray:
        """The bytes of an entry, which are not copied where they are not compressed."""
        info = self._zip.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED:
            return np.frombuffer(self._zip.read(info), np.uint8)
        # Its name and further notes stand between an entry's head and its content.
        head = self._data[info.header_offset : info.header_offset + 30].tobytes()
        named, noted = struct.unpack("<HH", head[26:30])
        start = info.header_offset + 30 + named + noted
        if head[:4] != b"PK\x03\x04" or start + info.file_size > len(self._data):
            raise EOFError
        return self._data[start : start + info.file_size]


class Legacy:
    """What torch.save wrote before PyTorch 1.6: pickles, one after the other, and behind them the storages.

    Args:
        data: all bytes.
        file: the same to read from.
    """

    def __init__(self, data: np.ndarray, file: Any, steps: Steps) -> None:
        self._data, self._file, self._steps = np.asarray(data), file, steps
        self._storages: dict[Any, Storage] = {}
        self._views: list[tuple[Storage, Any, int, int]] = []

    def load(self) -> Any:
        for _ in ("magic number", "version", "machine"):
            self.read()
        found = self.read()
        keys = self.read()
        if not isinstance(keys, list):
            raise TypeError("the storages must be listed")
        at = self._file.tell()
        for key in map(plain, keys):
            storage = self._storages[key]
            width = WIDTHS.get(storage.dtype) or np.dtype(storage.dtype).itemsize
            size = int.from_bytes(self._data[at : at + 8].tobytes(), "little") * width
            at += 8
            if at + size > len(self._data):
                raise EOFError
            storage.data = self._data[at : at + size]
            at += size
        for view, root, begin, end in self._views:
            whole_data = self._storages[root].data
            view.data = None if whole_data is None else whole_data[begin:end]
        return found

    def read(self) -> Any:
        return Unpickler(self._file, self._steps, self.storage).load()

    def storage(self, identity: Any) -> Storage:
        kind, key = storage_identity(identity)
        storage = self._storages.setdefault(key, Storage(kind))
        part = identity[5] if len(identity) > 5 else None
        if part is None:
            return storage
        _, offset, count = part
        width = WIDTHS.get(kind) or np.dtype(kind).itemsize
        begin, end = (width * each for each in whole([offset, offset + count]))
        view = Storage(kind)
        self._views.append((view, key, begin, end))
        return view


def storage_identity(identity: Any) -> tuple[str, Any]:
    """The dtype and the key of a storage."""
    if not (isinstance(identity, tuple) and len(identity) >= 5 and identity[0] == "storage" and isinstance(identity[1], Dtype)):
        raise TypeError("only storages are kept outside of a pickle")
    return str(identity[1]), plain(identity[2])
