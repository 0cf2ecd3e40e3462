"""Attention: who makes queries, keys and values (`heads`, `mla`, `msla`, `running_means`); `base`
holds what they share."""
