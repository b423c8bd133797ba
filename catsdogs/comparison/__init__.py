"""Study folders -> the comparison of their jobs: what `report.html`, the terminal, the tables and the exports say.

In the order of the data:

    evidence        study folders -> jobs, trials, epochs, predictions, final models: everything read once, damage told
    paired          losses per image -> differences with intervals over the same images
    answer          evidence -> which job is best, by how much, whether that is more than noise, what to do next
    choices         evidence -> effect of each composed choice, over jobs that differ in nothing else
    importance      trials -> how much each hyperparameter matters, with its uncertainty
    gallery         predictions + images -> the most confident mistakes and the least sure, with thumbnails
    theme           colours and Plotly templates, for light and dark
    search_figures  evidence -> figures of the search: parallel coordinates, slices, best so far, budget, curves
    final_figures   predictions of a final model -> reliability, ROC, confusion matrix, histogram
    page            all of these -> one self-contained HTML page
    tables          all of these -> CSV files
    to_tensorboard  evidence -> TensorBoard event files
    to_mlflow       evidence -> MLflow runs

Nothing here imports Keras or TensorFlow.
"""
