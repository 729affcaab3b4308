"""Exact minimal filtering: the transforms, and the proofs of the widths they need. Plain numpy."""
