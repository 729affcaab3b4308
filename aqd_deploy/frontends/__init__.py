"""From torch and foreign files to canonical QDQ ONNX."""
