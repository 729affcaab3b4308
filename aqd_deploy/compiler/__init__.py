"""Integer ONNX to Relax to one shared library."""
