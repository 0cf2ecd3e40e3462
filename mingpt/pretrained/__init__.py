"""Models from Hugging Face and back: `read` and `write`. `upcycle` gives a trained model another
attention."""
