"""Graph passes: QDQ ONNX to integer ONNX, one a file; `pipeline.py` is the one list that orders them."""
