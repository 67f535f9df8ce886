"""Carries out what the domain decides, with a store and a runtime: what the CLI calls now, and the controller next."""
