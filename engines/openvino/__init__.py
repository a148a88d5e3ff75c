"""OpenVINO: build and session."""
