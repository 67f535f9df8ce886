"""Carries a run out: starts the parser somewhere and hands its report's bytes to whoever decodes them."""
