"""The domain, pure: what is live and what was parsed go in, what to publish (or why not) comes out. No I/O."""
