"""Load and run a compiled program. Never imports the compiler."""
