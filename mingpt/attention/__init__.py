"""The kinds of attention: `heads` (slot `attention`, and multi-head attention), `mla` and `msla`
(with `running_means`). `base` holds what they share."""
