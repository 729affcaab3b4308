"""How weights and constants lie in a program's file: layouts, bit planes, Rice codes. Plain numpy."""
