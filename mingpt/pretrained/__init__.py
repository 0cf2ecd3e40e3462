"""Import models from Hugging Face (`read`) and export ours (`write`). `upcycle` starts a model from
another model's weights and converts its attention where the two differ."""
