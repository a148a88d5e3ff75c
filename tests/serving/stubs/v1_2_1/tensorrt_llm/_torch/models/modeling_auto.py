"""tensorrt_llm/_torch/models/modeling_auto.py, main at the turn of 2025 to 2026."""

from stub_behaviour import decoder_from_config


class AutoModelForCausalLM:
    @staticmethod
    def from_config(config):
        return decoder_from_config(config)
