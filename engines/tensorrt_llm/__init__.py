"""TensorRT-LLM's engine path."""
