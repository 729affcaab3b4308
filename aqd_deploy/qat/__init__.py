"""AQD in torch: quantizers, layers, detectors, losses and training (needs the extra `torch`)."""
