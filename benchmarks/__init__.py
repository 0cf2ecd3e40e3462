"""Side by side with peers: ratios from pairs interleaved in one run."""
