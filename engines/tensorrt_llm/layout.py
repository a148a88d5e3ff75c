"""The layout of a TensorRT-LLM checkpoint (engine path, 1.0 to 1.2.1): which tensor is cut from what.

For a Llama, Mistral or Qwen2 decoder and a number of tensor-parallel ranks: the names and shapes of every tensor of
every rank, the pieces of Hugging Face tensors that each is put together from, and ``config.json``.

Weights lie (out, in), as in Hugging Face. Queries, keys and values are one tensor per rank: the rank's query heads,
then its key heads, then its value heads. Where there are fewer key heads than ranks, ranks share one. ``mlp.fc`` is the
projection that the activation is applied to (`gate_proj`), ``mlp.gate`` the one it is multiplied with (`up_proj`).
Biases of tensors that are cut along their inputs are added after the ranks' sums, so every rank has them whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from allrounder.errors import InputInvalid, ModelUnsupported

__all__ = ["HEAD", "Decoder", "Piece", "Target", "decoder_of", "engine_config", "targets"]

# Hugging Face's model type -> the architecture that TensorRT-LLM's MODEL_MAP knows. Qwen3 is left out: its norms of
# queries and keys have names of their own in that layout, which could not be checked against a release.
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
EMBEDDING, HEAD = "decoder.embed_tokens.weight", "decoder.lm_head.weight"
_ROPES = ("default", "linear", "llama3")
# What transformers fills in where config.json is silent, as that of LLaVA-1.5 is about almost everything.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
    },
    "qwen2": {
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "vocab_size": 151936,
    },
}
_COMMON = {"num_attention_heads": 32, "num_hidden_layers": 32, "rms_norm_eps": 1e-6, "vocab_size": 32000}


class Piece(NamedTuple):
    """A rectangle of a source tensor: ``rows`` of its first axis, ``columns`` of its second; None takes all."""

    source: str  # canonical, see `allrounder.vlm.checkpoint`
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None


class Target(NamedTuple):
    """One tensor of one rank: its pieces, one below the other, and below them rows of zeros."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    padding: int = 0  # rows of zeros


@dataclass(frozen=True, slots=True)
class Decoder:
    """What the layout depends on."""

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    activation: str
    norm_eps: float
    max_positions: int
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    tied: bool
    rope_theta: float
    rope_scaling: dict[str, Any] | None

    @property
    def architecture(self) -> str:
        return _ARCHITECTURES[self.family]


def decoder_of(text: Mapping[str, Any], *, tied: bool) -> Decoder:
    """Returns the decoder of a ``text_config``, as transformers 4 or 5 writes it; defaults fill what it leaves out.

    The head is ``tied`` to the embedding table wherever there is no head among the weights.

    Raises:
        ModelUnsupported: A decoder, activation or rotary embedding that this layout has no place for.
    """
    family = text.get("model_type", "llama")
    if family not in _ARCHITECTURES:
        raise ModelUnsupported(
            "TensorRT-LLM's engine path does not take this decoder here",
            where="text_config.model_type",
            got=family,
            wanted=" or ".join(_ARCHITECTURES),
            remedy="serve the pruned checkpoint with the PyTorch backend instead: --backend checkpoint",
        )
    rope = _rope(text)
    text = {**_COMMON, **_DEFAULTS[family], **{key: value for key, value in text.items() if value is not None}}
    heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
    biased = bool(text.get("attention_bias", False))
    return Decoder(
        family=family,
        hidden=hidden,
        layers=int(text["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads", heads)),
        head_dim=int(text.get("head_dim", hidden // heads)),
        feed_forward=int(text["intermediate_size"]),
        vocabulary=int(text["vocab_size"]),
        activation=_activation(text),
        norm_eps=float(text["rms_norm_eps"]),
        max_positions=int(text["max_position_embeddings"]),
        qkv_bias=family == "qwen2" or (family == "llama" and biased),
        o_bias=family == "llama" and biased,
        mlp_bias=family == "llama" and bool(text.get("mlp_bias", False)),
        tied=tied,
        rope_theta=float(rope.pop("rope_theta")),
        rope_scaling=rope if rope["rope_type"] != "default" else None,
    )


def _activation(text: Mapping[str, Any]) -> str:
    activation = text.get("hidden_act", "silu")
    if activation != "silu":
        raise ModelUnsupported("the engine path is laid out for silu", where="text_config.hidden_act", got=activation)
    return activation


def _rope(text: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rotary parameters as transformers 5 writes them; 4 has `rope_theta` and `rope_scaling` apart."""
    rope = dict(text.get("rope_parameters") or text.get("rope_scaling") or {})
    rope.setdefault("rope_theta", text.get("rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type", rope.pop("type", "default"))
    if rope["rope_type"] not in _ROPES:
        raise ModelUnsupported(
            "the engine path was not checked with this rotary embedding",
            where="text_config.rope_parameters",
            got=rope["rope_type"],
            wanted=" or ".join(_ROPES),
        )
    return rope


def targets(decoder: Decoder, ranks: int, rank: int) -> Iterator[Target]:
    """Yields the tensors of one rank, in the order in which they are written.

    Raises:
        InputInvalid: The decoder cannot be cut into that many ranks.
    """
    check_ranks(decoder, ranks)
    vocabulary, hidden = decoder.vocabulary, decoder.hidden
    yield Target("transformer.vocab_embedding.weight", (vocabulary, hidden), (Piece(EMBEDDING),))
    for layer in range(decoder.layers):
        yield from _layer(decoder, layer, _Cut(ranks, rank))
    yield Target("transformer.ln_f.weight", (hidden,), (Piece("decoder.norm.weight"),))
    each = -(-vocabulary // ranks)  # the head is padded with zero rows to a multiple of the ranks
    head = EMBEDDING if decoder.tied else HEAD
    rows = (min(rank * each, vocabulary), min((rank + 1) * each, vocabulary))
    yield Target("lm_head.weight", (each, hidden), (Piece(head, rows),), each - (rows[1] - rows[0]))


def check_ranks(decoder: Decoder, ranks: int) -> None:
    """Raises `InputInvalid` for a number of ranks that heads or feed-forward cannot be cut into."""
    shared = ranks % decoder.kv_heads == 0 if decoder.kv_heads < ranks else decoder.kv_heads % ranks == 0
    if ranks < 1 or decoder.heads % ranks or decoder.feed_forward % ranks or not shared:
        raise InputInvalid(
            "the decoder cannot be cut into that many tensor-parallel ranks",
            where="tensor_parallel",
            got=ranks,
            wanted=f"a divisor of {decoder.heads} heads and {decoder.feed_forward} feed-forward rows "
            f"that divides {decoder.kv_heads} key heads, or is a multiple of them",
        )


class _Cut(NamedTuple):
    """Which of how many equal parts."""

    ranks: int
    rank: int

    def of(self, size: int) -> tuple[int, int]:
        part = size // self.ranks
        return self.rank * part, (self.rank + 1) * part

    def key_heads(self, heads: int) -> tuple[int, int]:
        """Returns the rank's key heads; where there are fewer heads than ranks, the one that it shares."""
        if heads >= self.ranks:
            return self.of(heads)
        head = self.rank * heads // self.ranks
        return head, head + 1


def _layer(decoder: Decoder, layer: int, cut: _Cut) -> Iterator[Target]:
    source, target = f"decoder.layers.{layer}", f"transformer.layers.{layer}"
    hidden = decoder.hidden
    for ours, theirs in (("input_layernorm", "input_layernorm"), ("post_layernorm", "post_attention_layernorm")):
        yield Target(f"{target}.{ours}.weight", (hidden,), (Piece(f"{source}.{theirs}.weight"),))
    yield from _attention(decoder, f"{source}.self_attn", f"{target}.attention", cut)
    rows = cut.of(decoder.feed_forward)
    local = rows[1] - rows[0]
    for ours, theirs in (("fc", "gate_proj"), ("gate", "up_proj")):
        yield Target(f"{target}.mlp.{ours}.weight", (local, hidden), (Piece(f"{source}.mlp.{theirs}.weight", rows),))
        if decoder.mlp_bias:
            yield Target(f"{target}.mlp.{ours}.bias", (local,), (Piece(f"{source}.mlp.{theirs}.bias", rows),))
    down = Piece(f"{source}.mlp.down_proj.weight", columns=rows)
    yield Target(f"{target}.mlp.proj.weight", (hidden, local), (down,))
    if decoder.mlp_bias:
        yield Target(f"{target}.mlp.proj.bias", (hidden,), (Piece(f"{source}.mlp.down_proj.bias"),))


def _attention(decoder: Decoder, source: str, target: str, cut: _Cut) -> Iterator[Target]:
    width = decoder.head_dim
    queries, keys = cut.of(decoder.heads), cut.key_heads(decoder.kv_heads)
    rows = {"q": _scaled(queries, width), "k": _scaled(keys, width), "v": _scaled(keys, width)}
    height = sum(end - start for start, end in rows.values())
    fused: Callable[[str], tuple[Piece, ...]] = lambda kind: tuple(  # noqa: E731 - used twice, reads best here
        Piece(f"{source}.{name}_proj.{kind}", part) for name, part in rows.items()
    )
    yield Target(f"{target}.qkv.weight", (height, decoder.hidden), fused("weight"))
    if decoder.qkv_bias:
        yield Target(f"{target}.qkv.bias", (height,), fused("bias"))
    inputs = rows["q"]
    dense = Piece(f"{source}.o_proj.weight", columns=inputs)
    yield Target(f"{target}.dense.weight", (decoder.hidden, inputs[1] - inputs[0]), (dense,))
    if decoder.o_bias:
        yield Target(f"{target}.dense.bias", (decoder.hidden,), (Piece(f"{source}.o_proj.bias"),))


def _scaled(part: tuple[int, int], by: int) -> tuple[int, int]:
    return part[0] * by, part[1] * by


def engine_config(decoder: Decoder, dtype: str, ranks: int) -> dict[str, Any]:
    """Returns ``config.json`` of the checkpoint: what `PretrainedConfig.from_dict` of 1.0 to 1.2.1 reads."""
    config: dict[str, Any] = {
        "architecture": decoder.architecture,
        "dtype": dtype,
        "logits_dtype": "float32",
        "vocab_size": decoder.vocabulary,
        "hidden_size": decoder.hidden,
        "num_hidden_layers": decoder.layers,
        "num_attention_heads": decoder.heads,
        "num_key_value_heads": decoder.kv_heads,
        "head_size": decoder.head_dim,
        "intermediate_size": decoder.feed_forward,
        "hidden_act": decoder.activation,
        "norm_epsilon": decoder.norm_eps,
        "position_embedding_type": "rope_gpt_neox",
        "max_position_embeddings": decoder.max_positions,
        "rotary_base": decoder.rope_theta,
        "rotary_scaling": decoder.rope_scaling,
        "attn_bias": decoder.qkv_bias,
        "mlp_bias": decoder.mlp_bias,
        "tie_word_embeddings": decoder.tied,
        "use_parallel_embedding": False,  # the table is small beside the rest, and prompts take rows of the whole
        "embedding_sharding_dim": 0,
        "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1},
    }
    if decoder.family == "qwen2":
        # seq_length is of the first Qwen's attention scaling, which `use_logn_attn` leaves off; the layer reads it.
        config |= {"qwen_type": "qwen2", "seq_length": decoder.max_positions, "use_logn_attn": False}
    return config
