"""The comparison for MLflow and TensorBoard."""
