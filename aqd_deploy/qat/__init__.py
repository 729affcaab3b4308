"""AQD in torch: quantizers, multi-level batch norm, ResNet, FPN, RetinaNet, FCOS, training."""
