"""tensorrt_llm/_torch/models/modeling_utils.py, main in the summer of 2026."""

from stub_behaviour import MODELS


def register_auto_model(name: str):
    def decorator(cls):
        MODELS[name] = cls
        return cls

    return decorator
