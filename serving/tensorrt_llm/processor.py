"""The input processor: a prompt with an image becomes ids and T image tokens.

`processor_class` makes the class as the installed release calls it. The image comes in `multi_modal_data`, and the rows
are made here by ONNX Runtime; or the rows come ready in `multi_modal_embeddings`, made by a `RowReader` in another
process.
"""

from __future__ import annotations

import inspect
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch

from allrounder.errors import EngineUnavailable, ImageInvalid, InputInvalid, ModelUnsupported
from allrounder.layout import PromptLayout, sequential_layout
from allrounder.serving.kept_rows import KeptRows, RowReader
from allrounder.serving.tensorrt_llm.api import Api
from allrounder.serving.tensorrt_llm.positions import Positions
from allrounder.serving.tensorrt_llm.requests import one_image, with_rows

__all__ = ["image_of", "processor_class"]

Processed = tuple[list[int], dict[str, Any]]


def processor_class(api: Api) -> type:
    """Returns the class of input processors.

    Raises:
        EngineUnavailable: The release's base class asks for methods that are not known.
    """
    members: dict[str, Any] = {"_api": api}
    if hasattr(api.processor_base, "call_with_text_prompt"):
        members["__call__"] = api.processor_base.__call__  # it sorts out ids and text, then calls back
    made = types.new_class(
        "PrunedLlavaProcessor", (_PrunedLlavaProcessor, api.processor_base), exec_body=lambda body: body.update(members)
    )
    if inspect.isabstract(made):
        raise EngineUnavailable(
            "TensorRT-LLM asks more of an input processor than is known",
            where=f"{api.processor_base.__module__}.{api.processor_base.__qualname__}",
            got=f"{', '.join(sorted(made.__abstractmethods__))} (tensorrt_llm {api.release})",
            remedy="install a release that is known, or a newer allrounder",
        )
    return made


class _PrunedLlavaProcessor:
    """What is the same in all releases. The names of methods and attributes are TensorRT-LLM's."""

    _api: Api

    def __init__(
        self, model_path: str, config: Any, tokenizer: Any, trust_remote_code: bool = False, **_options: Any
    ) -> None:
        if self._api.base_takes_config:
            super().__init__(model_path, config, tokenizer, trust_remote_code)  # type: ignore[call-arg]
        self.model_path = model_path
        self._vlm, self._own_tokenizer = config, tokenizer or _tokenizer(model_path)
        self.multimodal_hashing_supported = None  # TensorRT-LLM finds out at the first request
        _check_rope(Path(model_path), config.text_config)
        self._reader, self._positions = RowReader(model_path), Positions.of(model_path)
        made = self._reader.sidecar.model.hidden
        if made != config.text_config.hidden_size:
            raise ModelUnsupported(
                "the image tokens are not those of this decoder",
                where=model_path,
                got=made,
                wanted=config.text_config.hidden_size,
            )

    # What the base classes of later releases want as properties, and earlier ones as attributes.
    @property
    def tokenizer(self) -> Any:
        return self._own_tokenizer

    @property
    def config(self) -> Any:
        return self._vlm

    model_config = config

    @property
    def processor(self) -> None:
        """There is no Hugging Face processor behind this."""
        return

    @property
    def dtype(self) -> Any:
        text = self._vlm.text_config
        return getattr(text, "dtype", None) or getattr(text, "torch_dtype", None) or torch.float16

    def get_vocab_size(self) -> int:
        """Ids from here on are image tokens."""
        return int(self._vlm.text_config.vocab_size)

    def get_mm_token_ids(self) -> None:
        """None: every id beyond the vocabulary is one."""
        return

    def get_mm_special_token_ids(self) -> None:
        """None: nothing frames an image."""
        return

    def get_num_tokens_per_image(self, **_image: Any) -> int:
        """Every image has T rows."""
        return self._positions.tokens

    def __call__(self, inputs: Any, sampling_params: Any) -> Processed:
        return self.call_with_text_prompt(inputs, sampling_params)

    def call_with_text_prompt(self, inputs: Any, sampling_params: Any) -> Processed:
        """Returns the ids of a prompt and, where it has an image, the image's rows.

        Raises:
            InputInvalid: Image and prompt do not go together.
            ImageInvalid: Not an image.
        """
        images = _listed((inputs.get("multi_modal_data") or {}).get("image"))
        layout = self._layout(inputs, sampling_params, images=len(images))
        if not images:
            return list(layout.input_ids), {}
        return self._processed(self._reader.rows(self._reader.prepare([image_of(images[0])]), layout))

    def attach_multimodal_embeddings(
        self, inputs: Any, multimodal_embedding: dict[str, Any], sampling_params: Any
    ) -> Processed:
        """Returns the ids of a prompt whose rows were made elsewhere.

        Raises:
            InputInvalid: Rows and prompt do not go together, or there are not T rows of the decoder's width.
        """
        rows = _listed((multimodal_embedding or {}).get("image"))
        layout = self._layout(inputs, sampling_params, images=len(rows))
        if not rows:
            return list(layout.input_ids), {}
        keep = _listed(multimodal_embedding.get("keep")) or [range(self._positions.image_tokens)]
        given = torch.as_tensor(rows[0]).cpu()
        return self._processed(self._checked(given, tuple(int(each) for each in keep[0]), layout))

    def _layout(self, inputs: Any, sampling_params: Any, *, images: int) -> PromptLayout:
        text = inputs.get("prompt")
        if not isinstance(text, str):
            raise InputInvalid(
                "pruned prompts come as text", where="prompt", got=sorted(inputs), wanted="{'prompt': '...<image>...'}"
            )
        begin = getattr(self._own_tokenizer, "bos_token", None)
        special = getattr(sampling_params, "add_special_tokens", True) and not (begin and text.startswith(begin))
        token = self._reader.sidecar.model.image_token_id
        ids = one_image(self._own_tokenizer.encode(text, add_special_tokens=special), token)
        if images != ids.count(token):
            raise InputInvalid(
                "images and prompt do not go together",
                got=f"{images} image(s), {'one' if token in ids else 'no'} <image> in the prompt",
                wanted="one of each, or none",
            )
        self._check_place(ids, token)
        return sequential_layout(ids, token, [self._positions.image_tokens] * images)

    def _check_place(self, ids: tuple[int, ...], token: int) -> None:
        """Refuses prompts whose positions the model would get wrong: they follow from the image's place alone."""
        before = self._positions.before
        if self._positions.dropped and (token not in ids or ids.index(token) != before):
            raise InputInvalid(
                "a pruned checkpoint answers questions about an image, in the template's text",
                where="prompt",
                got=f"{ids.index(token)} tokens before the image" if token in ids else "no image",
                wanted=f"{before} tokens before the image, as in a question's prompt",
                remedy="make the prompt with allrounder.serving.tensorrt_llm.requests.prompt_text",
            )

    def _checked(self, rows: Any, keep: tuple[int, ...], layout: PromptLayout) -> KeptRows:
        """Checks rows that were made elsewhere."""
        wanted = (self._positions.tokens, self._reader.sidecar.model.hidden)
        if tuple(rows.shape) != wanted:
            raise InputInvalid(
                "the image has not the rows of this version",
                where="multi_modal_embeddings",
                got=list(rows.shape),
                wanted=list(wanted),
                remedy="make them with allrounder.serving.kept_rows.RowReader, of the same checkpoint",
            )
        if len(keep) != len(rows) or list(keep) != sorted(set(keep) & set(range(self._positions.image_tokens))):
            raise InputInvalid(
                "these are no keep indices of these rows",
                where="multi_modal_embeddings: keep",
                got=list(keep),
                wanted=f"{len(rows)} ascending numbers below {self._positions.image_tokens}",
            )
        return KeptRows(rows, keep, layout)

    def _processed(self, read: KeptRows) -> Processed:
        ids = with_rows(read, read.keep, self.get_vocab_size())  # the model reads from the ids which tokens these are
        return ids, {"multimodal_data": {"multimodal_embedding": torch.as_tensor(read.rows).to(self.dtype)}}


def image_of(value: Any) -> Any:
    """Returns what `RowReader` takes for an image in one of TensorRT-LLM's forms.

    Raises:
        ImageInvalid: A tensor of another shape or dtype than TensorRT-LLM's loaders make.
    """
    if not isinstance(value, torch.Tensor):
        return value  # a PIL image or an array; `to_rgb` judges it
    if value.dim() != 3 or value.shape[0] != 3 or value.dtype not in (torch.float32, torch.uint8):
        raise ImageInvalid(
            "not an image",
            got=f"{list(value.shape)} {value.dtype}",
            wanted="a tensor [3, height, width] of uint8, or of float32 from 0 to 1",
        )
    channels_last = value.permute(1, 2, 0).cpu()
    if value.dtype == torch.float32:
        channels_last = (channels_last * 255).round().clamp(0, 255).to(torch.uint8)  # undoes torchvision's ToTensor
    return np.ascontiguousarray(channels_last.numpy())


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _tokenizer(model_path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path)


def _check_rope(model_path: Path, text: Any) -> None:
    """Refuses a config of transformers 5 that the installed transformers 4 reads without its rotary base.

    4 knows `rope_theta`, 5 writes `rope_parameters`; 4 passes over what it does not know and takes 10000.
    """
    written = json.loads((model_path / "config.json").read_bytes()).get("text_config") or {}
    theta = (written.get("rope_parameters") or {}).get("rope_theta")
    read = getattr(text, "rope_theta", None) or (getattr(text, "rope_parameters", None) or {}).get("rope_theta")
    if theta is not None and float(theta) != float(read or 0):
        raise ModelUnsupported(
            "the installed transformers does not read this checkpoint's rotary base",
            where=f"{model_path / 'config.json'}: text_config.rope_parameters",
            got=read,
            wanted=theta,
            remedy='add "rope_theta" (and "rope_scaling") beside "rope_parameters", as transformers 4 writes them',
        )
