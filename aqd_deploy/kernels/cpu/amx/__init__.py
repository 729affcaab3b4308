"""Convolutions on AMX: products of whole tiles, 16 pixels by 16 output channels by 64 inputs."""
