"""tensorrt_llm/_torch/models/modeling_auto.py at commit 01bffee1 (2026)."""

from stub_behaviour import decoder_from_config


class AutoModelForCausalLM:
    @staticmethod
    def from_config(config):
        return decoder_from_config(config)
