"""Runs on a cluster: one Job per subdir, created as the subdir's own ServiceAccount."""
