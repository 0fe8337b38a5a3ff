"""The user's model as a tree of modules: what it must be, which of it is meant, what hangs on it."""
