"""tensorrt_llm/_torch/models/modeling_auto.py, main in the summer of 2025."""

from stub_behaviour import decoder_from_config


class AutoModelForCausalLM:
    @staticmethod
    def from_config(config):
        return decoder_from_config(config)
