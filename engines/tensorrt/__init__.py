"""TensorRT: build and session."""
