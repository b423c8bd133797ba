"""A folder of images -> what is wrong or odd in it: what `catsdogs.audit` tells, writes and shows.

In the order of the data:

    oddities   catalogue -> images that do not decode, have no clear label, or are tiny
    copies     catalogue + perceptual hashes -> groups of copies, exact and nearly; how many test images are copies
    suspects   studies -> images whose label models contradict that were not trained on them
    findings   all of these -> one record, its tables, and the ids that had better be ignored
    terminal   findings -> what a terminal says
    page       findings -> one self-contained HTML page

Nothing here imports Keras or TensorFlow.
"""
