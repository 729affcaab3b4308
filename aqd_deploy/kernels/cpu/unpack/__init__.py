"""From stored weights and constants to the layouts that kernels read, when a program is loaded."""
