"""A TensorRT-LLM checkpoint of the engine path, read and run in plain PyTorch; and the answer of stock transformers.

Which tensor is what: see the sources that `test_engine_layout.py` names.
"""

import json

import torch
from decoder_rows import decoder_rows
from safetensors.torch import load_file
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import LlavaForConditionalGeneration

from allrounder.serving.kept_rows import RowReader


class Reader:
    """TensorRT-LLM's decoder in plain PyTorch, all ranks of it, from what the checkpoint says alone."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        count = self.config["mapping"]["tp_size"]
        self.ranks = [load_file(folder / f"rank{rank}.safetensors") for rank in range(count)]

    def each(self, name, x, *, summed=False):
        """A linear of every rank: outputs side by side on each rank, or inputs cut and the outputs summed."""
        outputs = [linear(part, rank[f"{name}.weight"].float()) for rank, part in zip(self.ranks, x, strict=True)]
        bias = [rank[f"{name}.bias"].float() for rank in self.ranks] if f"{name}.bias" in self.ranks[0] else None
        if summed:
            return sum(outputs) + (0 if bias is None else bias[0])
        return outputs if bias is None else [each + own for each, own in zip(outputs, bias, strict=True)]

    def logits(self, rows):
        """Of inputs [rows, hidden], at positions 0 to rows - 1."""
        config, first, count = self.config, self.ranks[0], len(self.ranks)
        heads, size = config["num_attention_heads"] // count, config["head_size"]
        keys = -(-config["num_key_value_heads"] // count)
        angles = torch.outer(torch.arange(len(rows)).float(), self.frequencies())
        cos, sin = (torch.cat([wave(angles)] * 2, dim=-1) for wave in (torch.cos, torch.sin))

        def turned(x):
            low, high = x.chunk(2, dim=-1)
            return x * cos + torch.cat([-high, low], dim=-1) * sin

        def attend(fused):
            q, k, v = (
                part.view(len(rows), -1, size).transpose(0, 1)
                for part in fused.split([heads * size, keys * size, keys * size], dim=-1)
            )
            out = scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True, enable_gqa=True)
            return out.transpose(0, 1).reshape(len(rows), heads * size)

        def norm(x, name):
            return rms_norm(x, (x.shape[-1],), first[name].float(), config["norm_epsilon"])

        assert config["position_embedding_type"] == "rope_gpt_neox"
        assert config["hidden_act"] == "silu"
        for layer in range(config["num_hidden_layers"]):
            at = f"transformer.layers.{layer}."
            fused = self.each(at + "attention.qkv", [norm(rows, at + "input_layernorm.weight")] * count)
            rows = rows + self.each(at + "attention.dense", [attend(each) for each in fused], summed=True)
            x = [norm(rows, at + "post_layernorm.weight")] * count
            fc, gate = self.each(at + "mlp.fc", x), self.each(at + "mlp.gate", x)
            inner = [silu(a) * b for a, b in zip(fc, gate, strict=True)]
            rows = rows + self.each(at + "mlp.proj", inner, summed=True)
        x = [norm(rows, "transformer.ln_f.weight")] * count
        return torch.cat(self.each("lm_head", x), dim=-1)[:, : config["vocab_size"]]

    def frequencies(self):
        size, scaling = self.config["head_size"], self.config["rotary_scaling"] or {"rope_type": "default"}
        plain = 1 / self.config["rotary_base"] ** (torch.arange(0, size, 2).float() / size)
        if scaling["rope_type"] == "linear":
            return plain / scaling["factor"]
        if scaling["rope_type"] == "default":
            return plain
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * plain / (2 * torch.pi)
        blend = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - blend) * plain / scaling["factor"] + blend * plain


@torch.no_grad()
def stock_answer(checkpoint, image, question, new_tokens, *, kept=False):
    """The greedy answer of stock transformers, rows side by side, or with their positions in the unpruned prompt."""
    model = LlavaForConditionalGeneration.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    reader = RowReader(checkpoint)
    read, embed = reader.read(image, question), model.get_input_embeddings()
    rows, ids = decoder_rows(read, embed)[None], []
    places = torch.from_numpy(read.positions) if kept else torch.arange(rows.shape[1])[None]
    for _ in range(new_tokens):
        out = model(inputs_embeds=rows, position_ids=places, attention_mask=torch.ones_like(places))
        ids.append(int(out.logits[0, -1].argmax()))
        rows = torch.cat([rows, embed(torch.tensor([[ids[-1]]]))], dim=1)
        places = torch.cat([places, places[:, -1:] + 1], dim=1)
    stops = [place for place, token in enumerate(ids) if token in reader.sidecar.model.stop_ids]
    return reader.text(tuple(ids[: stops[0]] if stops else ids))


def kept_of(sidecar):
    """T of one image."""
    return sidecar.entry.pruning.budget(sidecar.model.images.tokens).tokens
