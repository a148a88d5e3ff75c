"""A stand-in for the Python package of TensorRT, 10.15 and 11.1, as far as we call it.

Names, keyword names, defaults and return values are those of NVIDIA/TensorRT, tags v10.15 and v11.1:
`python/src/infer/pyCore.cpp` (builder, config, runtime, engine, context, progress monitor), `pyPlugin.cpp` there
(registry), `python/src/parsers/pyOnnx.cpp` (parser), `python/packaging/bindings_wheel/tensorrt/__init__.py` (`nptype`).
A name that those tags do not have is an AttributeError here too.

Its plans hold the graph that was parsed; its contexts run it in ONNX Runtime, on "device" memory that is the host's.
The rules are TensorRT's, as its headers and NVIDIA's pages tell them: a KV cache update wants a static network input
and the same memory for its result; `Attention` is imported without its lengths; shapes lie in the profile that was set.
"""

# ruff: noqa: A002, RUF012 - the bindings' names; what is counted is counted per class

import ctypes
import enum
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

MAGIC = b"stub plan\n"
OPS_OF_10_15 = {"TensorScatter", "RotaryEmbedding", "RMSNormalization"}


class Gpu:
    """What the stub believes of the machine; tests change it."""

    sm = 90


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = Severity

    def __init__(self):
        self.made = True


class IProgressMonitor:
    def __init__(self):
        self.made = True


class IHostMemory:
    """Gives its bytes to `bytes()`, and has no length, as the real one."""

    def __init__(self, data):
        self._data = data

    def __bytes__(self):
        return self._data

    @property
    def nbytes(self):
        return len(self._data)


class Network:
    def __init__(self, flags):
        self.flags, self.model = flags, None


class OptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):
        low, usual, high = tuple(min), tuple(opt), tuple(max)
        if not all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True)):
            raise ValueError(f"invalid profile of {input}")
        self.shapes[input] = (low, usual, high)


class TimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return IHostMemory(self.data or b"timed")


class BuilderConfig:
    def __init__(self, stub):
        self._stub = stub
        self.flags_set, self.profiles, self.pools = {stub.BuilderFlag.TF32}, [], {}
        self.progress_monitor = None
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = stub.HardwareCompatibilityLevel.NONE
        self._cache = None

    def set_flag(self, flag):
        self.flags_set.add(self._stub.BuilderFlag(flag))

    def clear_flag(self, flag):
        self.flags_set.discard(self._stub.BuilderFlag(flag))

    def set_memory_pool_limit(self, pool, pool_size):
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return TimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class ParserError:
    def __init__(self, text):
        self._text = text

    def __str__(self):
        return self._text


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def embed(tensor, folder):
    """Puts a tensor's data into it; onnx itself refuses hard links, which the staged bundle is made of."""
    if tensor.data_location == TensorProto.EXTERNAL:
        where = {entry.key: entry.value for entry in tensor.external_data}
        data = (folder / where["location"]).read_bytes()
        tensor.raw_data = data[int(where["offset"]) :][: int(where["length"])]
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


class OnnxParser:
    def __init__(self, network, logger):
        assert logger.made, "ILogger.__init__ was not called"
        self._network, self._errors = network, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index):
        return self._errors[index]

    def parse(self, model, path=None):
        loaded = onnx.ModelProto.FromString(model)
        self._errors = [ParserError(text) for text in self._complaints(loaded)]
        if self._errors:
            return False
        for tensor in loaded.graph.initializer:
            embed(tensor, Path(path).parent)
        for node in loaded.graph.node:
            kept = [attribute for attribute in node.attribute if not attribute.name.startswith("TRT_")]
            del node.attribute[:]
            node.attribute.extend(kept)
            if node.op_type == "Attention":
                del node.input[6:]  # the importer looks at six
        self._network.model = loaded
        return True

    def _complaints(self, model):
        graph = model.graph
        inputs = {value.name: dims(value) for value in graph.input}
        outputs = {value.name for value in graph.output}
        functions = {function.name for function in model.functions}
        for node in graph.node:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type == "TensorScatter":
                cache = inputs.get(node.input[0])
                if cache is None or isinstance(cache[2], str) or node.output[0] not in outputs:
                    yield f"{node.name}: cache is no static network input and output"
            if node.op_type == "Attention" and len(node.input) > 3 and node.input[3] and attributes.get("is_causal"):
                yield f"{node.name}: mask and causal"
            if node.domain and node.op_type not in functions:
                yield f"{node.name}: Plugin not found, are the plugin name, version, and namespace correct?"


class Builder:
    built = []  # network and config of every build

    def __init__(self, stub, logger):
        assert logger.made, "ILogger.__init__ was not called"
        self._stub, self._logger = stub, logger

    def create_network(self, flags=0):
        return Network(flags)

    def create_builder_config(self):
        return BuilderConfig(self._stub)

    def create_optimization_profile(self):
        return OptimizationProfile()

    def build_serialized_network(self, network, config):
        Builder.built.append((network, config))
        dynamic = {value.name for value in network.model.graph.input if any(isinstance(d, str) for d in dims(value))}
        if dynamic and any(set(profile.shapes) != dynamic for profile in config.profiles or [OptimizationProfile()]):
            self._logger.log(Severity.ERROR, "Network has dynamic inputs, but a profile does not define them.")
            return None
        monitor = config.progress_monitor
        assert monitor.made, "IProgressMonitor.__init__ was not called"
        monitor.phase_start("Building Engine", None, 3)
        monitor.phase_start("Timing", "Building Engine", 2)
        for phase, step in (("Timing", 0), ("Building Engine", 0), ("Timing", 1)):
            if not monitor.step_complete(phase, step):
                return None
        monitor.phase_finish("Timing")
        monitor.phase_finish("Building Engine")
        header = {
            "version": self._stub.__version__,
            "sm": Gpu.sm,
            "newer": self._stub.BuilderFlag.VERSION_COMPATIBLE in config.flags_set,
            "profiles": [profile.shapes for profile in config.profiles],
        }
        return IHostMemory(MAGIC + json.dumps(header).encode() + b"\n" + network.model.SerializeToString())


class Registry:
    loaded = []
    fails = False

    def load_library(self, plugin_path):
        if Registry.fails:
            return None
        Registry.loaded.append(plugin_path)
        return object()


class Runtime:
    def __init__(self, stub, logger):
        self._stub, self._logger = stub, logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine):
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
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
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
            TensorProto.INT64: self.stub.DataType.INT64,
        }[kind]

    def get_tensor_profile_shape(self, name, profile_index):
        assert name in self.inputs, "profiles are of inputs"
        if self.profiles and name in self.profiles[profile_index]:
            return [tuple(shape) for shape in self.profiles[profile_index][name]]
        return [tuple(dims(self.inputs[name]))] * 3

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
        return tuple(symbols.get(d, -1) if isinstance(d, str) else d for d in declared)

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
        results = engine.session.run(None, {name: self._view(name).copy() for name in engine.inputs})
        for name, values in zip((each.name for each in engine.session.get_outputs()), results, strict=True):
            assert values.shape == self.get_tensor_shape(name)
            self._view(name)[...] = values
        return True

    def _view(self, name):
        kind = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * kind.itemsize
        memory = (ctypes.c_char * max(size, 1)).from_address(self._addresses[name])
        return np.frombuffer(memory, kind, int(np.prod(shape))).reshape(shape)


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT64 = 8


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


def nptype(trt_type):
    return {DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT64: np.int64}[trt_type]


def make(version="10.16.1.11"):
    """Returns a module that passes for `tensorrt` of that version."""
    stub = ModuleType("tensorrt")
    stub.__version__ = version
    major = int(re.match(r"\d+", version)[0])
    flags = ["REFIT", "TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRIP_PLAN"]
    flags += ["FP16", "BF16", "INT8"] if major < 11 else []
    creation = ["STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS"] if major >= 11 else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
    stub.BuilderFlag = enum.Enum("BuilderFlag", flags)
    stub.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation, start=0)
    stub.HardwareCompatibilityLevel = enum.Enum(
        "HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"]
    )
    stub.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE", "TACTIC_DRAM"])
    stub.ILogger, stub.IProgressMonitor, stub.OnnxParser = ILogger, IProgressMonitor, OnnxParser
    stub.DataType, stub.TensorIOMode, stub.nptype = DataType, TensorIOMode, nptype
    stub.Builder = lambda logger: Builder(stub, logger)
    stub.Runtime = lambda logger: Runtime(stub, logger)
    stub.get_plugin_registry = Registry
    return stub


class Streams:
    """CUDA's streams, as far as the contexts above must know them."""

    capturing = {}
