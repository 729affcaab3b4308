"""Rewrites of foreign quantized files to the one form that the passes read; `rewrites.py` orders them."""
