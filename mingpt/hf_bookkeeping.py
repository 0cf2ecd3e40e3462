"""
The keys of config.json that change no logit in any family: who wrote the file, token ids, sampling, training.
"""

from __future__ import annotations

from mingpt.hf_keys import Only

BOOKKEEPING = frozenset(["model_type", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "transformers.js_config", "tokenizer_class", "_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "attn_implementation", "task_specific_params", "finetuning_task", "problem_type", "id2label", "label2id", "num_labels", "prefix", "unsloth_version", "unsloth_fixed", "use_cache", "return_dict", "return_dict_in_generate", "output_hidden_states", "output_attentions", "output_scores", "torchscript", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens", "suppress_tokens", "bad_words_ids", "max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "num_return_sequences", "exponential_decay_length_penalty", "remove_invalid_values", "initializer_range", "gradient_checkpointing", "classifier_dropout", "chunk_size_feed_forward", "pretraining_tp", "use_bfloat16", "tf_legacy_loss"])
# every family computes the same with these values, and none of them here has another
PLAIN = Only(is_encoder_decoder=False, is_decoder=False, add_cross_attention=False, tie_encoder_decoder=False,
             pruned_heads={}, cross_attention_hidden_size=None)
