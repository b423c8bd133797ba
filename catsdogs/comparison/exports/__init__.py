"""Exports of studies to MLflow and TensorBoard."""
