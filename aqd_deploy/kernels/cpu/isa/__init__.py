"""One entry for each instruction set: its dot products, and how to read them in machine code."""
