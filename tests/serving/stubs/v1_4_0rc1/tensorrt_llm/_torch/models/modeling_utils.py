"""tensorrt_llm/_torch/models/modeling_utils.py, main in 2026: models of others reach workers by module name."""

from stub_behaviour import MODELS


def register_auto_model(name: str):
    def decorator(cls):
        assert cls.__module__ != "__main__"  # workers import the module by its name and expect the same registration
        MODELS[name] = cls
        return cls

    return decorator


def export_external_model_modules() -> dict[str, str]:
    return {name: cls.__module__ for name, cls in MODELS.items()}
