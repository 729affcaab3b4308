"""Tuning records: the file, the task a record is of, and their lookup when a program is compiled."""
