"""The Winograd family: its kernels, their plan of tiles and stores."""
