"""Families of convolution kernels, one a file; `families.conv2d` chooses."""
