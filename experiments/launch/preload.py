"""
What every run of a study imports. The process from which the runs are forked imports this module
once, so that a run starts without importing torch again.

Nothing here may start a thread or touch a GPU: a forked process inherits neither.
"""

import experiments.corpus
import experiments.train.loggers
import experiments.train.progress
import experiments.train.run
import experiments.train.sample  # noqa: F401  (all of them are imported for their effect)
