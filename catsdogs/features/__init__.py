"""Activations of the frozen prefix, computed once and stored.

Input: rows, a view and a cut. Output: activations, from the store or computed by the fastest accurate engine.
"""
