"""aqd-deploy: from a quantization-aware-trained detector to a bit-exact integer-only program."""

__version__ = "0.1.0"
