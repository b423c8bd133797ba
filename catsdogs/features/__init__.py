"""Activations of the frozen part of a network, computed once and stored.

In: rows, a view and a cut. Out: activations, from the store or computed by the fastest faithful engine.
"""
