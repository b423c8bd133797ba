"""Study folders -> the comparison of their jobs: what `report.html`, the terminal, the tables and the exports say.

In the order of the data:

    evidence        study folders -> jobs, trials, epochs, predictions, final models: everything read once, damage told
    paired          losses per image -> differences with intervals over the same images
    choices         evidence -> effect of each composed choice, over jobs that differ in nothing else
    answer          evidence -> which job is best, by how much, whether that is more than noise, what to do next
    importance      trials -> how much each hyperparameter matters, with its uncertainty
    final_scores    what retrain wrote -> scores without and with TTA; what TTA gained
    gallery         predictions + images -> the most confident mistakes and the least sure, with thumbnails
    theme           colours and Plotly templates, for light and dark; short names of jobs
    figures         a figure with its words; the kinds of traces that draw a table
    search_figures  evidence -> figures in rows: jobs with intervals, effects of choices, importance, where time went
    space_figures   trials -> figures of the searched space: parallel coordinates, hyperparameters against log loss
    curve_figures   evidence -> figures of how it went: best so far over trials and time, learning curves
    final_figures   predictions of a final model -> reliability, ROC, confusion matrix, histogram
    terminal        evidence -> what a terminal says: the answer and a table of the jobs
    formats         numbers and times -> text of the page
    sections        evidence -> the values of every section of the page
    page            all of these -> one self-contained HTML page
    tables          all of these -> CSV files
    timeline        trials and epochs -> curves, and when each epoch was over
    to_tensorboard  evidence -> TensorBoard event files
    to_mlflow       evidence -> MLflow runs

Nothing here imports Keras or TensorFlow.
"""
