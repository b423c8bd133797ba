"""Study folders -> the comparison of their jobs: page, terminal, tables, exports. Nothing here imports Keras."""
