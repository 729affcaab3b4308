"""Whole jobs made of the library's parts: detection on image files, the demonstration."""
