"""What any Python program needs: errors, atomic files, typed records of files, text, processes, time and machine.

In: values and paths. Out: files, messages, facts about this process. Nothing here knows what an image is.
"""
