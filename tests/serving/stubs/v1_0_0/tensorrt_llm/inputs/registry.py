"""tensorrt_llm/inputs/registry.py after #4506 and before #6497 (commit 2923eb88a1 of 2025-08-12 on main).

Whether the branch of 1.0 took #6497 could not be seen: if it did, 1.0 is like the stub of 1.1.
"""

from stub_behaviour import PROCESSORS

SUPPORTED = ("llava_next", "llava_llama", "qwen2_vl")  # and others; LLaVA-1.5 is none of them


def register_input_processor(processor_cls, model_type: str, out_of_tree: bool = False):
    def wrapper(model_cls):
        PROCESSORS[model_cls] = processor_cls
        if not out_of_tree:
            assert model_type in SUPPORTED
        return model_cls

    return wrapper
