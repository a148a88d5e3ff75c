"""How vLLM 0.32 names a Llava's parameters and maps a checkpoint's tensors to them: our own statement of its rules.

Read in https://github.com/vllm-project/vllm/tree/v0.32.0/vllm/model_executor/models: `llava.py`, `clip.py`,
`siglip.py`, `llama.py`, `qwen2.py`, `qwen3.py` (their `hf_to_vllm_mapper`), and `utils.py` (`WeightsMapper`).
"""

from collections.abc import Iterator, Mapping
from typing import Any

_PREFIXES = {  # of `llava.py`, one after another
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
_FUSED = {  # several tensors become the parts of one parameter
    ".q_proj.": (".qkv_proj.", "q"),
    ".k_proj.": (".qkv_proj.", "k"),
    ".v_proj.": (".qkv_proj.", "v"),
    ".gate_proj.": (".gate_up_proj.", "0"),
    ".up_proj.": (".gate_up_proj.", "1"),
}
_TOWER = "vision_tower.vision_model."


def mapped(stored: str, config: Any) -> tuple[str, str] | None:
    """Returns the parameter that a tensor goes to, and which part of it; None for those that vLLM leaves out."""
    for old, new in _PREFIXES.items():
        stored = new + stored.removeprefix(old) if stored.startswith(old) else stored
    part = ""
    for old, (new, shard) in _FUSED.items():
        if old in stored:
            stored, part = stored.replace(old, new, 1), shard
    tower = stored.removeprefix(_TOWER)
    beyond = tower.startswith("encoder.layers.") and int(tower.split(".")[2]) >= _depth(config)
    return None if tower != stored and (beyond or tower.startswith(("post_layernorm.", "head."))) else (stored, part)


def parameters(config: Any) -> set[tuple[str, str]]:
    """Returns all parameters, part by part, that a model of this config has."""
    return {
        *((f"language_model.{name}", part) for name, part in _language_model(config.text_config, config)),
        *((f"{_TOWER}{name}", part) for name, part in _tower(config.vision_config, _depth(config))),
        *((f"multi_modal_projector.{name}", "") for name in _projector(config)),
    }


def _depth(config: Any) -> int:
    layers, count = config.vision_feature_layer, config.vision_config.num_hidden_layers
    listed = [layers] if isinstance(layers, int) else layers
    return max(count + layer + 1 if layer < 0 else layer for layer in listed)


def _language_model(text: Any, config: Any) -> Iterator[tuple[str, str]]:
    biased = {"llama": getattr(text, "attention_bias", False), "qwen3": getattr(text, "attention_bias", False)}
    out = biased.get(text.model_type, False)
    kinds: Mapping[str, bool] = {"qkv_proj": out or text.model_type == "qwen2", "o_proj": out}
    mlp = getattr(text, "mlp_bias", False)
    yield from (("model.embed_tokens.weight", ""), ("model.norm.weight", ""))
    if not config.tie_word_embeddings:
        yield "lm_head.weight", ""
    for layer in range(text.num_hidden_layers):
        at = f"model.layers.{layer}"
        yield from ((f"{at}.{norm}.weight", "") for norm in ("input_layernorm", "post_attention_layernorm"))
        for kind in ("weight", "bias"):
            if kind == "weight" or kinds["qkv_proj"]:
                yield from ((f"{at}.self_attn.qkv_proj.{kind}", part) for part in "qkv")
            if kind == "weight" or kinds["o_proj"]:
                yield f"{at}.self_attn.o_proj.{kind}", ""
            if kind == "weight" or mlp:
                yield from ((f"{at}.mlp.gate_up_proj.{kind}", part) for part in "01")
                yield f"{at}.mlp.down_proj.{kind}", ""
        if text.model_type == "qwen3":
            yield from ((f"{at}.self_attn.{norm}.weight", "") for norm in ("q_norm", "k_norm"))


def _tower(vision: Any, depth: int) -> Iterator[tuple[str, str]]:
    clip = vision.model_type == "clip_vision_model"
    own = ("embeddings.class_embedding", "pre_layrnorm.weight", "pre_layrnorm.bias")
    names = ["embeddings.patch_embedding.weight", "embeddings.position_embedding.weight"]
    names += own if clip else ("embeddings.patch_embedding.bias",)
    modules = ("layer_norm1", "layer_norm2", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
    for layer in range(depth):
        for kind in ("weight", "bias"):
            names += [f"encoder.layers.{layer}.{module}.{kind}" for module in modules]
            yield from ((f"encoder.layers.{layer}.self_attn.qkv_proj.{kind}", part) for part in "qkv")
    yield from ((name, "") for name in names)


def _projector(config: Any) -> list[str]:
    kinds = ("weight", "bias") if config.multimodal_projector_bias else ("weight",)
    return [f"linear_{number}.{kind}" for number in (1, 2) for kind in kinds]
