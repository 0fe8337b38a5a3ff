"""Controllers: what sets theta over training, by a schedule or by what training itself says."""
