"""A folder of images -> what is wrong or odd in it: terminal, page, tables. Nothing here imports Keras."""
