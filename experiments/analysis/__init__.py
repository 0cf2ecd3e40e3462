"""
Analyse a schedule: which keys it leaves out, how much time that saves, and how a trained model's
attention uses the remaining keys.

    subjects.py     what is analysed: a window and dilation, a schedule, or a trained run
    describe.py     exact counts: sparsity, keys per query, reach, receptive field
    timing.py       measured speed-ups
    trained.py      a trained run's attention on validation text
    report.py       the analysis as text
    files.py        writes the text, the JSON and the pictures
"""
