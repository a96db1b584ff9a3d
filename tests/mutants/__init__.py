"""Mutation testing of the mathematics: `make mutants`; see docs/decisions on why it is its own."""
