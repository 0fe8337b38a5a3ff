"""Molecules in motion, as MD17 has them: frames of a trajectory with their energies and forces, simulated or published."""
