"""Plotly figures of the report page."""
