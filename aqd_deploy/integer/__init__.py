"""The integer dialect: ranges, fixed-point constants and their proofs, op definitions, the reference
runner.
"""
