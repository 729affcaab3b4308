"""Charts as SVG, one a file; each has a title, a description and a table of the same numbers beside it."""
