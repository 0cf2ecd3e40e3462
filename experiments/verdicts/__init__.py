"""From records to verdicts: `stats` judges one arm, `results` judges a study, and `comparable`
decides which arms may be judged at all."""
