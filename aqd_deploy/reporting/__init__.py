"""One versioned JSON schema; Markdown is a view of it."""
