"""Constraint relaxation (Pertigkiozoglou et al., NeurIPS 2024): terms, penalties, theta and projection."""
