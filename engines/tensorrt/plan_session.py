"""Sessions of TensorRT plans: memory on the GPU, contexts, and work that is captured.

Each binding has a context of its own, whose profile, shapes and addresses stay. Its work is done once as it comes, as
TensorRT wants it after shapes were set, then captured, and from then on launched as one graph.

A plan takes two numbers as the length of an input (`allrounder.engines.tensorrt.form`): here they become one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from allrounder.engines.sessions import BFLOAT16, Bound, Cell, Slots, Tensor
from allrounder.engines.slots import OneSlot, require_one
from allrounder.engines.tensorrt.cuda import Graph, Memory, Stream, use_device
from allrounder.engines.tensorrt.form import TOKENS_TO_KEEP
from allrounder.engines.tensorrt.library import Library
from allrounder.errors import BackendError
from allrounder.tensors import KEEP_COUNTS, LOGITS_TO_KEEP

__all__ = ["PlanSession"]

_log = logging.getLogger("allrounder.runtime")


def _numpy_type(module: Any, dtype: Any) -> np.dtype:
    """Returns numpy's type; TensorRT's own table has none for bfloat16, and raises."""
    return BFLOAT16 if dtype == module.DataType.BF16 else np.dtype(module.nptype(dtype))


class _Tensor:
    """A `Tensor` on the GPU."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, stream: Stream) -> None:
        self._shape, self.dtype, self._stream = shape, dtype, stream
        self._memory = Memory(int(np.prod(shape)) * dtype.itemsize)

    @property
    def address(self) -> int:
        return self._memory.address

    def numpy(self) -> np.ndarray:
        values = np.empty(self._shape, self.dtype)
        self._stream.read(values, self.address)
        return values

    def shape(self) -> list[int]:
        return list(self._shape)

    def fill(self, values: np.ndarray) -> None:
        self._stream.write(self.address, np.ascontiguousarray(values))


class _Cell:
    """A `Cell`."""

    def __init__(self, values: np.ndarray, stream: Stream, device: int) -> None:
        self.tensor: Any = _Tensor(values.shape, values.dtype, stream)
        self._device = device
        self.set(values)

    def set(self, values: np.ndarray) -> None:
        use_device(self._device)
        self.tensor.fill(np.broadcast_to(np.asarray(values, self.tensor.dtype), self.tensor.shape()))

    def get(self) -> np.ndarray:
        use_device(self._device)
        return self.tensor.numpy()


class PlanSession:
    """A `Session`; runs wait for each other, bindings do not."""

    def __init__(self, library: Library, loaded: tuple[Any, Any], name: str, device: int) -> None:
        self._library = library
        self._runtime, self._engine = loaded  # an engine must not outlive its runtime
        self.name, self.device = name, device
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        given = [each for each in names if self._engine.get_tensor_mode(each) == library.module.TensorIOMode.INPUT]
        self.inputs = tuple(each for each in given if each != TOKENS_TO_KEEP)
        self.outputs = tuple(each for each in names if each not in given)
        self._types = {each: _numpy_type(library.module, self._engine.get_tensor_dtype(each)) for each in names}
        self._stream = Stream()
        self._lock = threading.Lock()
        self._context: _Context | None = None

    def run(self, feeds: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor]:
        use_device(self.device)
        with self._lock:
            inputs = {name: self._on_device(name, feed) for name, feed in self._sized(feeds).items()}
            context = self._context = self._context or _Context(self._library, self._engine, self.name)
            context.set_inputs(inputs, self._stream)
            outputs = {name: _Tensor(context.shape(name), self._types[name], self._stream) for name in self.outputs}
            context.set_addresses(outputs)
            context.enqueue(self._stream)
            self._stream.wait()
        return {**outputs}

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Bound:
        use_device(self.device)
        context, stream = _Context(self._library, self._engine, self.name), Stream()
        held = {name: self._on_device(name, tensor) for name, tensor in self._sized(inputs).items()}
        context.set_inputs(held, stream)
        for name, tensor in outputs.items():
            if tensor.shape() != list(context.shape(name)):
                raise BackendError(
                    "a tensor has not the size that a plan gives",
                    where=f"{self.name}, {name}",
                    got=tensor.shape(),
                    wanted=list(context.shape(name)),
                )
        given = {name: self._on_device(name, tensor) for name, tensor in outputs.items()}
        others = [name for name in self.outputs if name not in given]
        free = {name: _Tensor(context.shape(name), self._types[name], self._stream) for name in others}
        context.set_addresses(given | free)
        return _Bound(context, stream, self.device, (self, held, given), free)

    def cell(self, values: np.ndarray) -> Cell:
        use_device(self.device)
        return _Cell(np.array(values), self._stream, self.device)

    def zeros(self, name: str, shape: Sequence[int | None]) -> Tensor:
        use_device(self.device)
        return self._zeros(name, shape)

    def slots(self, name: str, sequences: int, rows: int) -> Slots:
        require_one(sequences, self.name)
        use_device(self.device)
        whole = self._zeros(name, (None, None, None, None))  # of the plan's own capacity
        if rows > (capacity := whole.shape()[2]):
            raise BackendError(
                "prompt and answer are longer than the caches of this plan",
                where=f"{self.name}, {name}",
                got=rows,
                wanted=f"up to {capacity}",
                remedy="keep fewer image tokens, or build the bundle with higher limits",
            )
        return OneSlot(whole, self.name)

    def _zeros(self, name: str, shape: Sequence[int | None]) -> _Tensor:
        known = tuple(self._engine.get_tensor_shape(name))
        extents = tuple(there if wanted is None else wanted for there, wanted in zip(known, shape, strict=True))
        tensor = _Tensor(extents, self._types[name], self._stream)
        tensor.fill(np.zeros(extents, self._types[name]))
        return tensor

    def _sized(self, feeds: Mapping[str, Tensor | np.ndarray]) -> dict[str, Tensor | np.ndarray]:
        """Returns feeds with lengths in the place of numbers."""

        def total(name: str) -> np.ndarray:
            feed = feeds[name]
            return np.zeros(int((feed if isinstance(feed, np.ndarray) else feed.numpy()).sum()), np.int64)

        found = dict(feeds)
        if LOGITS_TO_KEEP in self._types:
            found[LOGITS_TO_KEEP] = total(LOGITS_TO_KEEP)
        if TOKENS_TO_KEEP in self._types:
            found[TOKENS_TO_KEEP] = total(KEEP_COUNTS)
        return found

    def _on_device(self, name: str, feed: Tensor | np.ndarray) -> _Tensor:
        """Returns a tensor on the GPU: the same, or a copy of what comes from elsewhere."""
        values = feed if isinstance(feed, _Tensor) else feed if isinstance(feed, np.ndarray) else feed.numpy()
        if values.dtype != self._types[name]:
            where = f"{self.name}, {name}"
            wanted = "bfloat16" if self._types[name] == BFLOAT16 else self._types[name]
            raise BackendError("a tensor has not the type of a plan", where=where, got=values.dtype, wanted=wanted)
        if isinstance(values, _Tensor):
            return values
        tensor = _Tensor(values.shape, values.dtype, self._stream)
        tensor.fill(values)
        return tensor


class _Context:
    """An execution context: shapes within one of the plan's profiles, and addresses."""

    def __init__(self, library: Library, engine: Any, name: str) -> None:
        self._library, self._engine, self._name = library, engine, name
        self._context = engine.create_execution_context()
        if self._context is None:
            raise library.failure("TensorRT cannot make a context", name)
        self._held: dict[str, _Tensor] = {}  # memory stays while an address points to it

    def set_inputs(self, inputs: Mapping[str, _Tensor], stream: Stream) -> None:
        """Sets profile, shapes and addresses of all inputs."""
        shapes = {name: tuple(tensor.shape()) for name, tensor in inputs.items()}
        self._must(self._context.set_optimization_profile_async(self._profile(shapes), stream.handle), "profile")
        for name, shape in shapes.items():
            self._must(self._context.set_input_shape(name, shape), name)
        self.set_addresses(inputs)

    def set_addresses(self, tensors: Mapping[str, _Tensor]) -> None:
        for name, tensor in tensors.items():
            self._must(self._context.set_tensor_address(name, tensor.address), name)
        self._held |= tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an output for the inputs as they were set."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(extent < 0 for extent in shape):
            where = f"{self._name}, {name}"
            raise BackendError("a plan does not say how large its result is", where=where, got=list(shape))
        return shape

    def enqueue(self, stream: Stream) -> None:
        self._must(self._context.execute_async_v3(stream.handle), "enqueue")

    def _profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Returns the first profile in which all shapes lie: builders put the narrowest first."""
        misfits: dict[str, Any] = {}
        for index in range(self._engine.num_optimization_profiles):
            misfits = {}
            for name, shape in shapes.items():
                low, _, high = (tuple(each) for each in self._engine.get_tensor_profile_shape(name, index))
                inside = all(least <= size <= most for least, size, most in zip(low, shape, high, strict=False))
                if len(shape) != len(low) or not inside:
                    misfits[name] = (list(shape), f"{list(low)} to {list(high)}")
            if not misfits:
                return index
        name, (got, wanted) = next(iter(misfits.items()))
        raise BackendError("a plan was not built for this size", where=f"{self._name}, {name}", got=got, wanted=wanted)

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise self._library.failure("TensorRT failed", f"{self._name}, {what}")


class _Bound:
    """A `Bound`; holds on to its tensors and to the session. Outputs that were tied to nothing stay where they are."""

    def __init__(
        self, context: _Context, stream: Stream, device: int, held: tuple[Any, ...], free: Mapping[str, _Tensor]
    ) -> None:
        self._context, self._stream, self._device, self._held, self._free = context, stream, device, held, free
        self._runs = 0
        self._graph: Graph | None = None

    def run(self) -> dict[str, Tensor]:
        use_device(self._device)
        if self._runs == 1:
            self._graph = self._captured()
        if self._graph:
            self._graph.launch(self._stream)
        else:
            self._context.enqueue(self._stream)
        self._stream.wait()
        self._runs += 1
        return {**self._free}

    def _captured(self) -> Graph | None:
        try:
            return self._stream.capture(lambda: self._context.enqueue(self._stream))
        except BackendError as error:
            _log.warning("new tokens are enqueued one by one, which is slower: %s", error)
            return None
