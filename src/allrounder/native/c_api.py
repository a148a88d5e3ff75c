"""The C interface of the shared library, for ctypes.

What it is: the structs and prototypes of `c_api.h` that `client` needs, and the opening of the library.
What it knows: the header of this version, to which the library belongs. What it does not know: what a call does.
"""

from __future__ import annotations

import ctypes as c
import importlib.util
from functools import cache
from pathlib import Path
from typing import ClassVar

from allrounder.native import require

__all__ = [
    "HANDLE",
    "IDS",
    "LOG",
    "PIECE",
    "Load",
    "Message",
    "Part",
    "Request",
    "Timing",
    "Usage",
    "installed_openvino",
    "installed_ort",
    "open_library",
]

LOG = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_char_p)
PIECE = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_size_t, c.c_int64)
IDS = c.POINTER(c.c_int64)
HANDLE = c.c_void_p


class Load(c.Structure):
    """`ar_load_options`."""

    _fields_: ClassVar = [
        ("size", c.c_size_t),
        ("version", c.c_char_p),
        ("ttft_ms", c.c_double),
        ("tpot_ms", c.c_double),
        ("percentile", c.c_int32),
        ("fallback_fastest", c.c_int32),
        ("threads", c.c_int32),
        ("weights", c.c_int),
        ("device", c.c_char_p),
        ("provider", c.c_char_p),
        ("ids_only", c.c_int32),
        ("ort_library", c.c_char_p),
        ("openvino_library", c.c_char_p),
        ("log", LOG),
        ("user", c.c_void_p),
    ]


class Part(c.Structure):
    """`ar_part`."""

    _fields_: ClassVar = [
        ("size", c.c_size_t),
        ("text", c.c_char_p),
        ("text_bytes", c.c_size_t),
        ("rgb", c.c_char_p),
        ("width", c.c_int64),
        ("height", c.c_int64),
        ("row_bytes", c.c_int64),
    ]


class Message(c.Structure):
    """`ar_message`."""

    _fields_: ClassVar = [
        ("size", c.c_size_t),
        ("role", c.c_char_p),
        ("parts", c.POINTER(Part)),
        ("part_count", c.c_size_t),
    ]


class Request(c.Structure):
    """`ar_request`."""

    _fields_: ClassVar = [
        ("size", c.c_size_t),
        ("messages", c.POINTER(Message)),
        ("message_count", c.c_size_t),
        ("text", c.c_char_p),
        ("text_bytes", c.c_size_t),
        ("ids", IDS),
        ("id_count", c.c_size_t),
        ("images", c.POINTER(Part)),
        ("image_count", c.c_size_t),
        ("keep", c.c_double),
        ("max_new_tokens", c.c_int64),
        ("temperature", c.c_double),
        ("top_k", c.c_int64),
        ("top_p", c.c_double),
        ("seeded", c.c_int32),
        ("seed", c.c_uint64),
        ("stop", c.POINTER(c.c_char_p)),
        ("stop_count", c.c_size_t),
        ("cancel", c.c_void_p),
        ("piece", PIECE),
        ("user", c.c_void_p),
    ]


class Timing(c.Structure):
    """`ar_timing`."""

    _fields_: ClassVar = [
        ("size", c.c_size_t),
        ("preprocess_ms", c.c_double),
        ("vision_ms", c.c_double),
        ("router_ms", c.c_double),
        ("prefill_ms", c.c_double),
        ("decode_ms", c.c_double),
        ("ttft_ms", c.c_double),
        ("tpot_ms", c.c_double),
    ]


class Usage(c.Structure):
    """`ar_usage`."""

    _fields_: ClassVar = [
        ("size", c.c_size_t),
        ("text_tokens", c.c_int64),
        ("image_tokens", c.c_int64),
        ("kept_image_tokens", c.c_int64),
        ("new_tokens", c.c_int64),
    ]


_ERROR, _SIZE = c.c_void_p, c.POINTER(c.c_size_t)

# name: (what it returns, its arguments)
_PROTOTYPES = {
    "ar_version": (c.c_char_p, ()),
    "ar_error_name": (c.c_char_p, (_ERROR,)),
    "ar_error_message": (c.c_char_p, (_ERROR,)),
    "ar_error_free": (None, (_ERROR,)),
    "ar_runtime_load": (_ERROR, (c.c_char_p, c.POINTER(Load), c.POINTER(HANDLE))),
    "ar_runtime_close": (None, (HANDLE, c.c_int)),
    "ar_runtime_free": (None, (HANDLE,)),
    "ar_runtime_version": (c.c_char_p, (HANDLE,)),
    "ar_runtime_entry": (c.c_char_p, (HANDLE,)),
    "ar_runtime_manifest": (c.c_char_p, (HANDLE,)),
    "ar_generate": (_ERROR, (HANDLE, c.POINTER(Request), c.POINTER(HANDLE))),
    "ar_generate_batch": (
        _ERROR,
        (HANDLE, c.POINTER(Request), c.c_size_t, c.POINTER(HANDLE), c.POINTER(_ERROR)),
    ),
    "ar_answer_text": (c.c_void_p, (HANDLE, _SIZE)),
    "ar_answer_token_ids": (IDS, (HANDLE, _SIZE)),
    "ar_answer_prompt_ids": (IDS, (HANDLE, _SIZE)),
    "ar_answer_keep_indices": (IDS, (HANDLE, _SIZE)),
    "ar_answer_kept_layers": (IDS, (HANDLE, _SIZE)),
    "ar_answer_finish": (c.c_int, (HANDLE,)),
    "ar_answer_timing": (None, (HANDLE, c.POINTER(Timing))),
    "ar_answer_usage": (None, (HANDLE, c.POINTER(Usage))),
    "ar_answer_free": (None, (HANDLE,)),
    "ar_prompt_encode": (_ERROR, (HANDLE, c.POINTER(Message), c.c_size_t, c.POINTER(HANDLE))),
    "ar_prompt_ids": (IDS, (HANDLE, _SIZE)),
    "ar_prompt_free": (None, (HANDLE,)),
}


@cache
def open_library() -> c.CDLL:
    """Opens the shared library.

    Raises:
        EngineUnavailable: It is not installed.
    """
    library = c.CDLL(str(require("library")))
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)  # library[name] would be a new object each time
        function.restype, function.argtypes = result, arguments
    return library


def installed_ort() -> Path | None:
    """Returns ONNX Runtime's library of the installed package `onnxruntime`, which is not imported."""
    return _installed("onnxruntime", "capi/libonnxruntime.so*")


def installed_openvino() -> Path | None:
    """Returns the library with OpenVINO's C API of the installed package `openvino`, which is not imported."""
    return _installed("openvino", "libs/libopenvino_c.so*")


def _installed(package: str, library: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return min((path for folder in folders or () for path in Path(folder).glob(library)), default=None)
