// A library that is not ONNX Runtime.
extern "C" int some_symbol() { return 1; }
