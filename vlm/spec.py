"""What pruning has to know of a vision-language model, as one small frozen record. A family's folder reads it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DecoderSpec", "ModelSpec", "ProjectorSpec", "RopeSpec", "VisionSpec"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding: ``cos(position x inverse_frequencies) x scale``, halves rotated (the Llama convention)."""

    kind: str  # one of STATIC_ROPES, for people to read: the numbers below already contain its effect
    inverse_frequencies: tuple[float, ...]  # [D / 2], exactly the float32 values that transformers uses
    scale: float  # of cosine and sine; 1.0 but for yarn


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The language model: M pre-norm layers with grouped-query attention and a gated MLP."""

    family: str  # one of DECODER_FAMILIES
    hidden: int  # H
    layers: int  # M
    heads: int
    kv_heads: int  # G
    head_dim: int  # D; heads x head_dim need not be hidden
    feed_forward: int
    vocabulary: int  # V
    activation: str  # of the MLP's gate
    norm_eps: float
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool  # RMS norm over head_dim of queries and keys, before the rotary embedding (Qwen3)
    tied: bool  # the head is the embedding table; there is no `decoder.lm_head.weight`
    max_positions: int  # the longest sequence, unpruned image tokens included
    rope: RopeSpec


@dataclass(frozen=True, slots=True)
class VisionSpec:
    """The vision tower: a transformer over square patches, a norm before each half of a layer."""

    # "clip" (class token, a norm before the layers, no patch bias), "siglip" (patch bias) or "internvl" (class token,
    # patch bias, what each half of a layer adds is scaled)
    family: str
    hidden: int
    layers: int  # of the checkpoint; only the first max(feature_layers) are ever computed
    heads: int
    feed_forward: int
    image_size: int  # pixels, square
    patch_size: int  # pixels, square
    activation: str
    norm_eps: float
    feature_layers: tuple[int, ...]  # 0 = embeddings, i = output of layer i; concatenated along hidden
    drop_first: bool  # vision_feature_select_strategy "default": the first row is cut (CLIP's class token)
    last_norm: bool = False  # a layer norm behind the last layer (`vision.last_norm`)
    merge: int = 1  # patches along one side that become one image token (pixel shuffle), row by row within it
    qkv_bias: bool = True
    qk_norm: bool = False  # RMS norm over all heads of queries and keys
    rms_norm: bool = False  # RMS norms in the layers, else layer norms

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def class_token(self) -> bool:
        """Whether a class token is before the patches."""
        return self.family in ("clip", "internvl")

    @property
    def pre_norm(self) -> bool:
        """Whether a norm is before the first layer."""
        return self.family == "clip"

    @property
    def patch_bias(self) -> bool:
        """Whether the patch embedding has a bias."""
        return self.family != "clip"

    @property
    def layer_scale(self) -> bool:
        """Whether what each half of a layer adds is scaled, channel by channel."""
        return self.family == "internvl"

    @property
    def rows(self) -> int:
        """Rows inside the tower: patches and class token."""
        return self.grid * self.grid + self.class_token

    @property
    def tokens(self) -> int:
        """Image tokens of one tile."""
        return (self.rows - self.drop_first) // self.merge**2


@dataclass(frozen=True, slots=True)
class ProjectorSpec:
    """From what the tower gives to the decoder's hidden size: two linear layers or one, perhaps behind a layer norm."""

    inputs: int  # vision hidden x number of feature layers x merge x merge
    hidden: int  # H of the decoder
    activation: str | None  # between `projector.linear_1` and `projector.linear_2`; None: there is the first alone
    bias: bool
    norm_eps: float | None = None  # of `projector.layer_norm`, before all others; None: there is none


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model: decoder, vision tower, projector, and what binds them."""

    model_type: str  # of `allrounder.vlm.families`: "llava", ...
    decoder: DecoderSpec
    vision: VisionSpec
    projector: ProjectorSpec
    image_tokens: int  # of one tile; how many an image has, the image plan says
    image_token_id: int  # N times in Hugging Face's prompts, once per image in ours
    newline: bool = False  # a learned row ends each row of a canvas (`projector.image_newline`)
