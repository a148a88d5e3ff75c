"""ONNX Runtime: build and session."""
