"""From Darknet's .cfg and .weights to float ONNX. No torch is needed."""
