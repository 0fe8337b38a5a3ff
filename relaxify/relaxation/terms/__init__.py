"""Terms theta * W x, one file for each kind."""
