"""What the DAGs of the sales team share. Outside both subdirectories: it is imported, never parsed for itself."""
