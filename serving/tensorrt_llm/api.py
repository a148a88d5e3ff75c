"""What of TensorRT-LLM's PyTorch backend is used, found and checked before use.

`load_api` imports the functions, compares their signatures with those that were read in the sources of 1.0 to 1.4.0rc1,
and hides where they differ. What it does not recognise, it refuses: another signature would end in wrong answers.

The differences: an input processor is registered as out of tree first, then with the metadata of its placeholder. It is
a plain callable first, then a `BaseMultimodalInputProcessor`, whose text is handled by `__call__` up to 1.3.0rc15 (May
2026) and by `call_with_text_prompt` later. Rows that a chunk of the prompt needs are cut by
`find_input_mm_embeds` from 1.1 on.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from allrounder.engines.releases import Release
from allrounder.engines.tensorrt_llm.release import PYTORCH_PATH, require_pytorch_path
from allrounder.errors import EngineUnavailable

__all__ = ["Api", "load_api", "require_images"]

_MODEL_TYPE = "llava"  # as config.json says
_EXECUTOR = "tensorrt_llm._torch.pyexecutor.engine.multimodal"  # of the newest releases
_MODELS, _REGISTRY = "tensorrt_llm._torch.models", "tensorrt_llm.inputs.registry"
# Names of the parameters, as the releases have them.
_OUT_OF_TREE = ("processor_cls", "model_type", "out_of_tree")
_PLACEHOLDER = ("processor_cls", "model_type", "placeholder_metadata")
_FUSE = ("embedding_layer", "input_ids", "mm_embeds", "mm_token_ids")
_FUSE_INDEXED = (*_FUSE, "text_token_indices", "mm_token_indices")
_BASE_INIT = ("self", "model_path", "config", "tokenizer")


class Api(NamedTuple):
    """The used part of TensorRT-LLM."""

    release: Release
    register_model: Callable[[str], Callable[[type], type]]
    register_processor: Callable[[type], Callable[[type], type]]
    processor_base: type  # `object` where any callable is one
    base_takes_config: bool  # whether the base's constructor keeps path, config and tokenizer
    decoder_from_config: Callable[[Any], Any]
    fuse: Callable[..., tuple[Any, Any]]  # (embedding, ids, rows, **indices) -> (ids, embeddings)
    rows_of_chunk: Callable[[list[Any], list[Any]], list[Any]]


def load_api() -> Api:
    """Returns the used part of the installed TensorRT-LLM.

    Raises:
        EngineUnavailable: It is not installed, cannot be imported, or is not one that is known.
    """
    release = require_pytorch_path()
    find = _Finder(release)
    register_model = find(f"{_MODELS}.modeling_utils", "register_auto_model", ("name",))
    from_config = find(f"{_MODELS}.modeling_auto", "AutoModelForCausalLM.from_config", ("config",))
    fuse = find(f"{_MODELS}.modeling_multimodal_utils", "fuse_input_embeds", _FUSE, _FUSE_INDEXED)
    base = find.optional(_REGISTRY, "BaseMultimodalInputProcessor") or object
    cut = find.optional(f"{_MODELS}.modeling_multimodal_utils", "find_input_mm_embeds")
    if cut is not None:
        find.check(f"{_MODELS}.modeling_multimodal_utils.find_input_mm_embeds", cut, ("mm_embeds", "multimodal_params"))
    return Api(
        release=release,
        register_model=register_model,
        register_processor=_registration(find),
        processor_base=base,
        base_takes_config=_parameters(base.__init__)[:4] == _BASE_INIT,
        decoder_from_config=from_config,
        fuse=_indexed(fuse),
        rows_of_chunk=cut or (lambda rows, _params: rows),
    )


def require_images(api: Api, model: object, processor: type) -> None:
    """Refuses an executor that would take the model for one of text alone, and its rows for ids that do not exist.

    Executors of 2026 ask whether a model is a `MultimodalModelMixin`, which brings a vision tower into the executor,
    and else whether its input processor is a multimodal one; ours is that. The second question is to go one day.
    Earlier executors ask neither. What counts is what this process runs: without an executor there is nothing to ask.

    Raises:
        EngineUnavailable: It would, or asks in another way than is known.
    """
    asked = getattr(sys.modules.get(_EXECUTOR), "is_multimodal", None)
    if asked is None:
        return
    find = _Finder(api.release)
    find.check(f"{_EXECUTOR}.is_multimodal", asked, ("model", "input_processor"))
    if not asked(model, object.__new__(processor)):  # its class is what is asked about
        raise find.unknown(f"{_EXECUTOR}.is_multimodal", "False for a model that is no MultimodalModelMixin", ())


class _Finder:
    """Imports one release's functions."""

    def __init__(self, release: Release) -> None:
        self._release = release

    def __call__(self, module: str, name: str, *known: tuple[str, ...]) -> Any:
        """Returns what a release must have; a function's parameters are among the known ones, where some are given."""
        found = self._imported(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is None:
            raise self.unknown(f"{module}.{name}", "nothing of that name", known)
        if known:
            self.check(f"{module}.{name}", found, *known)
        return found

    def optional(self, module: str, name: str) -> Any:
        """Returns what not every release has, or None."""
        return getattr(self._imported(module), name, None)

    def check(self, where: str, function: Callable[..., Any], *known: tuple[str, ...]) -> None:
        """Refuses a function with other parameters than those that are known."""
        if _parameters(function) not in known:
            raise self.unknown(where, str(inspect.signature(function)), known)

    def _imported(self, module: str) -> Any:
        try:
            return importlib.import_module(module)
        except Exception as error:  # a broken installation raises anything: missing libraries, no driver
            raise EngineUnavailable(
                "TensorRT-LLM is installed and cannot be imported",
                where=module,
                got=f"{type(error).__name__}: {error} (tensorrt_llm {self._release})",
                remedy="run inside NVIDIA's container, on a machine with a GPU",
            ) from error

    def unknown(self, where: str, got: str, known: tuple[tuple[str, ...], ...]) -> EngineUnavailable:
        """Returns the error of a release that is not as it was read."""
        return EngineUnavailable(
            "TensorRT-LLM has something here that is not known",
            where=where,
            got=f"{got} (tensorrt_llm {self._release})",
            wanted=" or ".join(f"({', '.join(names)})" for names in known) or None,
            remedy=f"install {PYTORCH_PATH[0]} to {PYTORCH_PATH[1]} as NVIDIA released them, or a newer allrounder",
        )


def _registration(find: _Finder) -> Callable[[type], Callable[[type], type]]:
    function = find(_REGISTRY, "register_input_processor", _OUT_OF_TREE, _PLACEHOLDER)
    if _parameters(function) == _OUT_OF_TREE:
        return lambda processor: function(processor, model_type=_MODEL_TYPE, out_of_tree=True)
    metadata = find(_REGISTRY, "MultimodalPlaceholderMetadata")
    before = find(_REGISTRY, "MultimodalPlaceholderPlacement.BEFORE_TEXT")
    placeholder = metadata(placeholder_map={"image": "<image>"}, placeholder_placement=before)
    return lambda processor: function(processor, model_type=_MODEL_TYPE, placeholder_metadata=placeholder)


def _indexed(fuse: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Hands on the places of rows where the executor already computed them and the release takes them."""
    if _parameters(fuse) == _FUSE_INDEXED:
        return fuse
    return lambda embedding, ids, rows, **_indices: fuse(embedding, ids, rows)


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Returns the names of the parameters, but for ``**kwargs``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C, without a signature
        return ()
    return tuple(each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD)
