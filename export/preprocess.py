"""The preprocess graph: an RGB image becomes pixel values.

The settings of the stock CLIP, SigLIP and Llava processors (pad, resize, crop, rescale, normalise) as standard ops on
uint8 [height, width, 3] of any size, then float32. Pillow's resizing is in `resizing`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto

from allrounder import tensors
from allrounder.errors import ModelUnsupported
from allrounder.export.graph.writer import GraphWriter
from allrounder.export.resizing import Order, installed_order, resized

__all__ = ["ImageSteps", "image_steps", "preprocess_graph"]

_F32 = TensorProto.FLOAT
_FILTERS = {2: "linear", 3: "cubic"}  # Pillow's BILINEAR and BICUBIC


class ImageSteps(NamedTuple):
    """What a processor does, in this order: pad, resize, crop, rescale, normalise."""

    size: int  # pixels, square, of what comes out
    background: tuple[int, ...] | None  # pad to a square of this colour first
    shortest: int | None  # resize the shorter edge to this and crop the middle; None: resize to the square at once
    mode: str  # "linear" or "cubic"
    factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Order | None  # of Pillow's two passes; None: rows first


def image_steps(processor: Any, size: int) -> ImageSteps:
    """Returns the steps of a stock image processor.

    The vision tower's input is square, of ``size`` pixels.

    Raises:
        ModelUnsupported: A step that the graph cannot do; ``where`` is its setting.
    """
    settings: dict[str, Any] = processor.to_dict()
    mode = _FILTERS.get(int(settings.get("resample") or 0))
    if not settings.get("do_resize") or mode is None:
        _refuse("resample", settings.get("resample"), "do_resize with Pillow's BILINEAR (2) or BICUBIC (3)")
    if settings.get("do_convert_rgb") is False:
        _refuse("do_convert_rgb", "false", "true: images are handed over as RGB")
    edges = dict(settings["size"])
    edges = {key: value for key, value in edges.items() if value}
    shortest = edges.get("shortest_edge") if set(edges) == {"shortest_edge"} else None
    if shortest is None and edges != {"height": size, "width": size}:
        _refuse("size", edges, f"shortest_edge, or height and width of {size}")
    cropped = bool(settings.get("do_center_crop"))
    crop = dict(settings.get("crop_size") or {}) if cropped else {}
    if cropped and (crop.get("height"), crop.get("width")) != (size, size):
        _refuse("crop_size", crop, f"height and width of {size}")
    pads = bool(settings.get("do_pad"))
    if pads and not type(processor).__name__.startswith("Llava"):
        _refuse("do_pad", "true", "padding to a square, as the Llava processor does it")
    if shortest is not None and (shortest < size or (not cropped and not (pads and shortest == size))):
        _refuse("size", edges, f"at least {size}, with do_center_crop")
    mean = tuple(settings["image_mean"]) if settings.get("do_normalize") else (0.0, 0.0, 0.0)
    std = tuple(settings["image_std"]) if settings.get("do_normalize") else (1.0, 1.0, 1.0)
    return ImageSteps(
        size=size,
        background=tuple(int(part * 255) for part in settings["image_mean"]) if pads else None,
        shortest=shortest,
        mode=str(mode),
        factor=float(settings["rescale_factor"]) if settings.get("do_rescale") else 1.0,
        mean=mean,
        std=std,
        order=None if pads else installed_order(),  # squares are never tall
    )


def preprocess_graph(steps: ImageSteps) -> onnx.ModelProto:
    """Returns the graph from uint8 [height, width, 3] to float32 [1, 3, size, size]."""
    graph = GraphWriter("preprocess", {}, _F32)
    image = graph.input(tensors.IMAGE, TensorProto.UINT8, ["height", "width", 3])
    if steps.background is not None:
        image = _squared(graph, image, steps.background)
    first = graph.node("Transpose", [image], "channels_first", perm=[2, 0, 1])
    pixels = graph.node("Unsqueeze", [first, graph.ints(0)], "batched")
    if steps.shortest is None:
        edges = graph.ints(steps.size, steps.size)
    else:
        extent = graph.node("Shape", [image], "extent", start=0, end=2)
        least = graph.node("ReduceMin", [extent], "least", keepdims=1)
        # Whole numbers truncate as Pillow's callers do: int(shortest * longer / shorter).
        edges = graph.node("Div", [graph.node("Mul", [extent, graph.ints(steps.shortest)], "scaled"), least], "edges")
    pixels = resized(graph, pixels, edges, mode=steps.mode, order=steps.order)
    if steps.shortest is not None:
        pixels = _cropped(graph, pixels, edges, steps.size)
    values = graph.node("Cast", [pixels], "float", to=_F32)
    for op, name, numbers in (
        ("Mul", "factor", (steps.factor,)),
        ("Sub", "mean", steps.mean),
        ("Div", "std", steps.std),
    ):
        column = graph.constant(np.array(numbers, np.float32).reshape(-1, 1, 1), name)
        values = graph.node(op, [values, column], f"after_{name}")
    graph.output(tensors.PIXEL_VALUES, _F32, [1, 3, steps.size, steps.size], values)
    model = graph.model()
    model.doc_string = f"filters {steps.order.about if steps.order else 'rows first'}"
    return model


def _squared(graph: GraphWriter, image: str, background: tuple[int, ...]) -> str:
    """Puts the image in the middle of a square; an odd remainder goes to the right or bottom."""
    with graph.scope("square"):
        extent = graph.node("Shape", [image], "extent", start=0, end=2)
        missing = graph.node("Sub", [graph.node("ReduceMax", [extent], "side", keepdims=1), extent], "missing")
        low = graph.node("Div", [missing, graph.ints(2)], "low")
        high = graph.node("Sub", [missing, low], "high")
        pads = graph.node("Concat", [low, high], "pads", axis=0)
        # Pad has one colour for all channels, hence one channel at a time.
        channels = graph.nodes("Split", [image], ("red", "green", "blue"), axis=2, num_outputs=3)
        padded = [
            graph.node(
                "Pad", [channel, pads, graph.constant(np.array(part, np.uint8), "colour"), graph.ints(0, 1)], "padded"
            )
            for channel, part in zip(channels, background, strict=True)
        ]
        return graph.node("Concat", padded, "image", axis=2)


def _cropped(graph: GraphWriter, pixels: str, edges: str, size: int) -> str:
    with graph.scope("crop"):
        start = graph.node("Div", [graph.node("Sub", [edges, graph.ints(size)], "beyond"), graph.ints(2)], "start")
        end = graph.node("Add", [start, graph.ints(size)], "end")
        return graph.node("Slice", [pixels, start, end, graph.ints(2, 3)], "middle")


def _refuse(key: str, got: object, wanted: str) -> None:
    raise ModelUnsupported("the image processor does something that graphs cannot", where=key, got=got, wanted=wanted)
