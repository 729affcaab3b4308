"""From a float network to a quantized one, by calibration images: no training."""
