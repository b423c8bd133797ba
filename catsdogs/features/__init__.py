"""Activations of the frozen prefix, computed once and stored.

In: rows, a view and a cut. Out: activations, from the store or computed by the fastest accurate engine.
"""
