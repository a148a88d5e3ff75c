"""What runs plans in the stand-in of TensorRT (`tensorrt_stub`): runtime, engine, context.

Its plans hold the graph that was parsed; its contexts run it in ONNX Runtime, on "device" memory that is the model's.
"""

# ruff: noqa: RUF012 - what is counted is counted per class

import ctypes
import enum
import json

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from allrounder.export.weights.widened import widened

BFLOAT16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
MAGIC = b"stub plan\n"


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


class Streams:
    """CUDA's streams, as far as the contexts above must know them."""

    capturing = {}


class Runtime:
    def __init__(self, stub, logger):
        self._stub, self._logger = stub, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
        serialized_engine = bytes(memoryview(serialized_engine))  # the bindings take any buffer
        if not serialized_engine.startswith(MAGIC):
            self._logger.log(Severity.ERROR, "Serialization assertion stdArchiveMagic failed.")
            return None
        head, _, data = serialized_engine[len(MAGIC) :].partition(b"\n")
        header = json.loads(head)
        if header["version"] != self._stub.__version__ and not header["newer"]:
            self._logger.log(Severity.ERROR, "Error Code 6: The engine plan file is not compatible")
            return None
        if header["newer"] and not self.engine_host_code_allowed:
            self._logger.log(Severity.ERROR, "Cannot deserialize engine with lean runtime: host code not allowed")
            return None
        return Engine(self._stub, header, onnx.ModelProto.FromString(data))


class Engine:
    def __init__(self, stub, header, model):
        self.stub, self.model = stub, model
        self.profiles = header["profiles"]
        self.inputs = {value.name: value for value in model.graph.input}
        self.outputs = {value.name: value for value in model.graph.output}
        self.aliases = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "TensorScatter"}
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            widened(model).SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )

    num_io_tensors = property(lambda self: len(self.inputs) + len(self.outputs))
    num_optimization_profiles = property(lambda self: max(1, len(self.profiles)))

    def get_tensor_name(self, index):
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name):
        return self.stub.TensorIOMode.INPUT if name in self.inputs else self.stub.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        kind = (self.inputs | self.outputs)[name].type.tensor_type.elem_type
        return {
            TensorProto.FLOAT: self.stub.DataType.FLOAT,
            TensorProto.FLOAT16: self.stub.DataType.HALF,
            TensorProto.BFLOAT16: self.stub.DataType.BF16,
            TensorProto.INT64: self.stub.DataType.INT64,
            TensorProto.UINT8: self.stub.DataType.UINT8,
        }[kind]

    def get_tensor_profile_shape(self, name, profile_index):
        assert name in self.inputs, "profiles are of inputs"
        if self.profiles and name in self.profiles[profile_index]:
            return [tuple(shape) for shape in self.profiles[profile_index][name]]
        return [tuple(dims(self.inputs[name]))] * 3

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(d, str) else d for d in dims((self.inputs | self.outputs)[name]))

    def get_aliased_input_tensor(self, name):
        return self.aliases.get(name)

    def create_execution_context(self, strategy=None):
        return Context(self)


class Context:
    made = []

    def __init__(self, engine):
        self._engine, self._profile = engine, 0
        self._shapes = {name: tuple(dims(value)) for name, value in engine.inputs.items()}
        self._addresses = {}
        self.enqueued = 0
        Context.made.append(self)

    def set_optimization_profile_async(self, profile_index, stream_handle):
        assert stream_handle, "a stream of one's own"
        self._profile = profile_index
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name, shape):
        low, _, high = self._engine.get_tensor_profile_shape(name, self._profile)
        fits = len(shape) == len(low) and all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name):
        symbols = {}
        for each, shape in self._shapes.items():
            symbols |= dict(zip(dims(self._engine.inputs[each]), shape, strict=True))
        declared = dims((self._engine.inputs | self._engine.outputs)[name])
        if name in self._engine.outputs and not {d for d in declared if isinstance(d, str)} <= set(symbols):
            return self._computed(name)
        return tuple(symbols.get(d, -1) if isinstance(d, str) else d for d in declared)

    def _computed(self, name):
        """The shape of an output whose extents are computed from those of inputs."""
        engine = self._engine
        kinds = {each.name: each.type for each in engine.session.get_inputs()}
        types = {
            "tensor(float)": np.float32,
            "tensor(float16)": np.float16,
            "tensor(int64)": np.int64,
            "tensor(uint8)": np.uint8,
        }
        feeds = {each: np.zeros(shape, types[kinds[each]]) for each, shape in self._shapes.items()}
        return engine.session.run([name], feeds)[0].shape

    def set_tensor_address(self, name, memory):
        assert isinstance(memory, int)
        self._addresses[name] = memory
        return name in self._engine.inputs or name in self._engine.outputs

    def execute_async_v3(self, stream_handle):
        if Streams.capturing.get(stream_handle) is not None:
            assert self.enqueued, "a context is run once before it is captured"
            Streams.capturing[stream_handle].append(self._compute)
            return True
        self.enqueued += 1
        return self._compute()

    def _compute(self):
        engine = self._engine
        if set(self._addresses) != {*engine.inputs, *engine.outputs}:
            return False
        if any(self._addresses[out] != self._addresses[given] for out, given in engine.aliases.items()):
            return False
        results = engine.session.run(None, {name: self._read(name) for name in engine.inputs})
        for name, values in zip((each.name for each in engine.session.get_outputs()), results, strict=True):
            assert values.shape == self.get_tensor_shape(name)
            view = self._view(name)
            view[...] = values.astype(view.dtype)
        return True

    def _read(self, name):
        """Copies an input, a bfloat16 one in float32: ONNX Runtime computes in that."""
        view = self._view(name)
        return view.astype(np.float32) if view.dtype == BFLOAT16 else view.copy()

    def _view(self, name):
        dtype = self._engine.get_tensor_dtype(name)
        kind = BFLOAT16 if dtype is DataType.BF16 else np.dtype(nptype(dtype))
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * kind.itemsize
        memory = (ctypes.c_char * max(size, 1)).from_address(self._addresses[name])
        return np.frombuffer(memory, kind, int(np.prod(shape))).reshape(shape)


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5
    BF16 = 7
    INT64 = 8


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


def nptype(trt_type):
    mapping = {
        DataType.FLOAT: np.float32,
        DataType.HALF: np.float16,
        DataType.INT64: np.int64,
        DataType.UINT8: np.uint8,
    }
    if trt_type in mapping:
        return mapping[trt_type]
    raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")  # of bfloat16, for one
