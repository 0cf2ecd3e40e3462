"""
What a schedule leaves out, what that saves, and what a trained model's attention does with the
rest.

    subjects.py     what is looked at: a window and dilation, a schedule, a trained run
    describe.py     exact counts: sparsity, keys per query, reach, receptive field
    timing.py       speed-ups, measured
    trained.py      a trained run's attention on validation text
    report.py       all of it as text; files.py writes it, with its pictures
"""
