"""What the stubs of all releases do behind their signatures: as little as shows that a registration works.

Written from what TensorRT-LLM's functions are documented to do, not from their text. The decoder is that of stock
transformers, fed one flat sequence of all requests' tokens as TensorRT-LLM feeds its own.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

MODELS, PROCESSORS, PLACEHOLDERS = {}, {}, {}
KNOWN_DECODERS = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}


class Decoder(torch.nn.Module):
    """Stands for TensorRT-LLM's decoders."""

    def __init__(self, config):
        super().__init__()
        self.config = config.pretrained_config
        self.stock = AutoModelForCausalLM.from_config(self.config, dtype=torch.float32).eval()
        self.vocab_size_padded = self.config.vocab_size
        # As _torch/modules/attention.py: what does not rotate in its kernel rotates outside, by the ids of positions.
        self.counts = getattr(config, "attn_backend", "TRTLLM") == "TRTLLM"
        for layer in self.stock.model.layers:
            layer.self_attn.rope_fusion = self.counts

    @property
    def model(self):
        return self.stock.model

    def infer_max_seq_len(self):
        return self.config.max_position_embeddings

    def load_weights(self, weights):
        missing, unexpected = self.stock.load_state_dict(dict(weights), strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}, missing
        assert not missing or self.config.tie_word_embeddings

    def forward(
        self,
        attn_metadata,
        input_ids=None,
        position_ids=None,
        inputs_embeds=None,
        return_context_logits=False,
        **kwargs,
    ):
        assert not kwargs
        assert (input_ids is None) != (inputs_embeds is None)
        rows = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        assert position_ids.shape == (1, len(rows))
        assert position_ids.dtype == torch.int32
        logits = []
        places = attn_metadata.counted if self.counts else position_ids[0]
        for part, at in zip(rows.split(attn_metadata.lengths), places.split(attn_metadata.lengths), strict=True):
            seen = torch.ones(1, len(part), dtype=torch.int64)  # else gaps would be borders of packed sequences
            out = self.stock(inputs_embeds=part[None], position_ids=at[None].long(), attention_mask=seen)
            logits.append(out.logits[0])
        return torch.cat(logits if return_context_logits else [each[-1:] for each in logits])


def decoder_from_config(config):
    (architecture,) = config.pretrained_config.architectures
    assert architecture in KNOWN_DECODERS, architecture
    return Decoder(config)


def fuse(embedding_layer, input_ids, mm_embeds, mm_token_indices=None):
    """Text ids become rows of the table, ids beyond it the rows that were given, in order."""
    if not mm_embeds:
        return input_ids, None
    foreign = input_ids >= embedding_layer.num_embeddings
    if mm_token_indices is not None:
        assert torch.equal(torch.where(foreign)[0], mm_token_indices)
    given = torch.cat(mm_embeds)
    assert int(foreign.sum()) == len(given), "as many ids as rows"
    rows = embedding_layer(torch.where(foreign, 0, input_ids))
    rows[foreign] = given.to(rows.dtype)
    return None, rows


def cut(mm_embeds, multimodal_params):
    """Keeps the rows of each request that its chunk of the prompt has."""
    assert len(mm_embeds) == len(multimodal_params)
    kept = []
    for rows, request in zip(mm_embeds, multimodal_params, strict=True):
        runtime = request.multimodal_runtime
        start = 0 if runtime is None else runtime.num_unseen_mm_tokens
        count = len(rows) if runtime is None else runtime.num_mm_tokens_in_chunk
        kept.append(rows[start : start + count])
    return kept


@dataclass
class SamplingParams:
    """The fields of tensorrt_llm/sampling_params.py that are used here."""

    max_tokens: int = 32
    temperature: float | None = None
    stop_token_ids: list[int] | None = None
    add_special_tokens: bool = True


class LLM:
    """Stands for tensorrt_llm.LLM (llmapi/llm.py): the registered processor and model, greedy, without any cache."""

    def __init__(self, model, tokenizer=None, trust_remote_code=False, tensor_parallel_size=1, dtype="auto", **kwargs):
        assert tensor_parallel_size == 1
        self.options = kwargs
        config = AutoConfig.from_pretrained(model)
        self.model, self.processor = created(model, config, tokenizer, kwargs.get("attn_backend", "TRTLLM"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def generate(self, inputs, sampling_params):
        return [self._answer(request, sampling_params) for request in inputs]

    @torch.no_grad()
    def _answer(self, request, sampling):
        ids, data = prepared(self.processor, request, sampling)
        prompt = len(ids)
        while len(ids) < prompt + sampling.max_tokens and ids[-1] not in (sampling.stop_token_ids or []):
            ids.append(int(run(self.model, [(ids, data)])[-1].argmax()))
        new = [each for each in ids[prompt:] if each not in (sampling.stop_token_ids or [])]
        text = self.processor.tokenizer.decode(new, skip_special_tokens=True)
        return SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=ids[prompt:])])


def created(checkpoint, config, tokenizer=None, attn_backend="FLASHINFER"):
    """Makes what is registered for a checkpoint, as TensorRT-LLM's loaders do."""
    (architecture,) = config.architectures
    model_class = MODELS[architecture]
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(checkpoint)
    processor = PROCESSORS[model_class](str(checkpoint), config, tokenizer, trust_remote_code=False)
    model = model_class(SimpleNamespace(pretrained_config=config, attn_backend=attn_backend))
    weights = {}
    for file in sorted(Path(checkpoint).glob("*.safetensors")):
        weights |= {name: each.float() for name, each in load_file(file).items()}
    model.load_weights(weights)
    return model.eval(), processor


def prepared(processor, request, sampling):
    """Runs the processor on a request, as llmapi/llm.py does."""
    if "multi_modal_embeddings" in request:
        ids, extra = processor.attach_multimodal_embeddings(request, request["multi_modal_embeddings"], sampling)
    else:
        ids, extra = processor(request, sampling)
    return list(ids), (extra or {}).get("multimodal_data", {})


def run(model, requests, *, generating=(), whole=False, runtimes=None, starts=None):
    """One step of the executor: prompts, then single tokens of requests that generate, in one flat sequence.

    Generating requests are (token, counted position); a prompt's chunk starts where `starts` says.
    """
    starts = [*(starts or [0] * len(requests)), *(place for _, place in generating)]
    generating = [token for token, _ in generating]
    sequences = [ids for ids, _ in requests] + [[token] for token in generating]
    runtimes = runtimes or [None] * len(requests)
    params = [
        SimpleNamespace(multimodal_data=data, multimodal_runtime=runtime)
        for (_, data), runtime in zip(requests, runtimes, strict=True)
    ]
    flat = torch.tensor([token for ids in sequences for token in ids])
    lengths = [len(ids) for ids in sequences]
    counted = torch.cat([torch.arange(at, at + length) for at, length in zip(starts, lengths, strict=True)]).int()
    metadata = SimpleNamespace(num_contexts=len(requests), lengths=lengths, counted=counted)
    places = torch.where(flat >= model.config.vocab_size)[0]
    others = torch.where(flat < model.config.vocab_size)[0]
    return model.forward(
        metadata,
        flat,
        counted[None],
        return_context_logits=whole,
        multimodal_params=params,
        text_token_indices=others,
        mm_token_indices=places,
    )
