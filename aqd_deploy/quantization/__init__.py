"""From a float network to a quantized one, by calibration; and what quantization does to each layer."""
