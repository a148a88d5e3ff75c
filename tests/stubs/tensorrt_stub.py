"""A stand-in for the Python package of TensorRT, 10.15 and 11.1, as far as we call it.

Names, keyword names, defaults and return values are those of NVIDIA/TensorRT, tags v10.15 and v11.1:
`python/src/infer/pyCore.cpp` (builder, config, runtime, engine, context, progress monitor), `pyPlugin.cpp` there
(registry), `python/src/parsers/pyOnnx.cpp` (parser), `python/packaging/bindings_wheel/tensorrt/__init__.py` (`nptype`).
A name that those tags do not have is an AttributeError here too.

Here is what builds; `tensorrt_stub_run` has what runs plans. The rules are TensorRT's, as its headers and NVIDIA's
pages tell them: a KV cache update wants a static network input and the same memory for its result; `Attention` is
imported without its lengths; shapes lie in the profile that was set.
"""

# ruff: noqa: A002, RUF012 - the bindings' names; what is counted is counted per class

import enum
import json
import re
from pathlib import Path
from types import ModuleType

import onnx
from onnx import TensorProto
from tensorrt_stub_run import MAGIC, Context, DataType, Runtime, Severity, Streams, TensorIOMode, dims, nptype

__all__ = ["Builder", "Context", "Gpu", "OnnxParser", "Registry", "Severity", "Streams", "make"]


class Gpu:
    """What the stub believes of the machine; tests change it."""

    sm = 90


class ILogger:
    Severity = Severity

    def __init__(self):
        self.made = True


class IProgressMonitor:
    def __init__(self):
        self.made = True


class IStreamWriter:
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
        self.num_compute_capabilities, self.targets = 1, {}

    def set_compute_capability(self, compute_capability, index):
        assert index < self.num_compute_capabilities
        self.targets[index] = compute_capability
        return True

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

    def build_serialized_network_to_stream(self, network, config, writer):
        assert writer.made, "IStreamWriter.__init__ was not called"
        plan = self._plan(network, config)
        pieces = [] if plan is None else [plan[:5], plan[5:]]
        return plan is not None and all(_written(writer, piece) == len(piece) for piece in pieces)

    def _plan(self, network, config):
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
        return MAGIC + json.dumps(header).encode() + b"\n" + network.model.SerializeToString()


def _written(writer, data):
    """Calls a writer as the bindings do, which let no exception through."""
    try:
        return writer.write(data)
    except Exception as error:  # noqa: BLE001
        print(f"[ERROR] Exception caught in write(): {error}")
        return 0


class Registry:
    loaded = []
    fails = False

    def load_library(self, plugin_path):
        if Registry.fails:
            return None
        Registry.loaded.append(plugin_path)
        return object()


def make(version="10.16.1.11"):
    """Returns a module that passes for `tensorrt` of that version; of 1.x, for `tensorrt_rtx`."""
    stub = ModuleType("tensorrt")
    stub.__version__ = version
    major = int(re.match(r"\d+", version)[0])
    if major == 1:
        stub.ComputeCapability = enum.Enum("ComputeCapability", ["CURRENT", "SM80", "SM86", "SM89", "SM120", "SM121"])
    flags = ["REFIT", "TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRIP_PLAN"]
    flags += ["FP16", "BF16", "INT8"] if major < 11 else []
    creation = ["STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS"] if major >= 11 else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
    stub.BuilderFlag = enum.Enum("BuilderFlag", flags)
    stub.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", creation, start=0)
    stub.HardwareCompatibilityLevel = enum.Enum(
        "HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"]
    )
    stub.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE", "TACTIC_DRAM"])
    stub.ILogger, stub.IProgressMonitor, stub.IStreamWriter = ILogger, IProgressMonitor, IStreamWriter
    stub.OnnxParser = OnnxParser
    stub.DataType, stub.TensorIOMode, stub.nptype = DataType, TensorIOMode, nptype
    stub.Builder = lambda logger: Builder(stub, logger)
    stub.Runtime = lambda logger: Runtime(stub, logger)
    stub.get_plugin_registry = Registry
    return stub
