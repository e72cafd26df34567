"""Audit of taggers under Lorentz transformations: numbers, figures, comparisons."""
