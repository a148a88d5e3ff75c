"""TensorRT-RTX: TensorRT's build and session with another library."""
