"""From records to words: `stats` judges one arm, `results` a study, `comparable` says what may be
judged at all."""
