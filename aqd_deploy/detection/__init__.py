"""Pre- and post-processing of detectors (numpy and Pillow only)."""
