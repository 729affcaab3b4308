"""Pages of a report: sections make blocks of the document; HTML and Markdown are two ways to write blocks."""
