"""The dot products of each instruction set, and how to read them in machine code."""
