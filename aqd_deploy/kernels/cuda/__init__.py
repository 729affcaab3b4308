"""Kernels for NVIDIA's cards: CUDA C++ templates (`native/`) and what instantiates and launches them."""
