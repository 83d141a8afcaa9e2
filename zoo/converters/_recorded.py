"""What of a file's configuration was looked at, so that what nobody understands can be reported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

SEVERAL = 4  # a task's section has one value that matters, a model's a dozen
# Fields of the toolkits' own configurations that do not change what an encoder computes, or not unseen by its tensors:
# of training, masking, losses, heads, and of data. `*` is anything.
WITHOUT_EFFECT = """
    *_drop_path_rate *_loss *_norm_target_layer *_norm_targets *label* adam_* adapter_* add_masks adp_* aim_*
    alibi_* all_gather_list_size amp* apply_mask apply_spec_augment architectures attn_type average_top_k_layers
    azureml_logging batch_size* best_checkpoint_metric bf16 binarized_dataset blank_* bos* bpe broadcast_buffers
    bucket_cap_mb channel checkpoint_* classifier_proj_size clip_norm clone_batch code_penalty codebook_negatives
    codevector_dim combine_valid_subsets continue_once contrastive_logits_temperature conv_pos_batch_norm cpu
    cpu_offload criterion cross_sample_negatives ctc_loss_reduction ctc_zero_infinity curriculum data
    data_buffer_size dataset_impl ddp_backend ddp_comm_hook debug_param_names decoder decoder_group
    depthwise_conv_kernel_size device_id disable_validation distributed_* diversity_loss_weight drop_path dropout
    dropout_features dtype ema_* empty_cache_freq enable_padding encoder_zero_mask end_of_block_targets eos*
    extractor_dropout fast_stat_sync feat_pen_loss feat_quantizer_dropout feature_grad_mult final_dim final_dropout
    find_unused_parameters finetune_from_model fix_batches_to_gpus fixed_validation_seed force_anneal fp16*
    fp32_reduce_scatter freeze_* gen_subset gradient_as_bucket_view gradient_penalty grouped_shuffling gru_rel_pos
    gumbel hard_gumbel heartbeat_timeout ignore_unused_valid_subsets infonce init_extra_token_zero init_teacher_*
    initializer_range input_dim inverse_mask keep_* latent_* layer_decay layerdrop learned_alibi_scale
    load_checkpoint_on_all_dp_ranks load_ema local_grad_mult localsgd_frequency log_* logit_temp loss_* lr lr_*
    mae_init mask_* max_epoch max_positions max_sample_size max_source_positions max_tokens* max_update
    max_valid_steps maximize_best_checkpoint_metric memory_efficient_* min_loss_scale min_params_to_wrap
    min_pred_var min_sample_size min_target_var model_depth model_parallel_size multi_corpus_* n_mfcc n_tasks
    negatives_from_everywhere no_epoch_checkpoints no_last_checkpoints no_mask_* no_pretrained_weights
    no_progress_bar no_reshard_after_forward no_save* no_seed_provided no_softmax not_fsdp_flatten_parameters
    nprocs_per_node num_adapter_layers num_batch_buckets num_clusters num_codevector* num_ctc_classes
    num_feat_extract_layers num_negatives num_shards num_workers offload_activations on_cpu_convert_precision
    optimizer optimizer_overrides out_layer_* output_hidden_size pad pad_* patience pipeline_* plasma_path
    pos_enc_type post_mlp_drop post_save_script precompute_mask_config pred_layer_id prenet_dropout prenet_layerdrop
    probabilistic_grad_penalty_slicing profile proj_codevector_dim quantization_config_path quantize_targets
    quantizer_* rebuild_batches remove_masks replace_prob require_same_masks required_batch_size_multiple
    required_seq_len_multiple reset_* restore_file same_quantizer sample_rate save_* scoring seed sentence_avg
    shard_id shared_decoder skip_ema skip_invalid_size_inputs_valid_test skip_masked skip_nomask
    skip_remainder_batch slowmo_* smoothing* smoothness_weight stop_min_lr stop_time_hours store_ema subsample
    supported_modality suppress_crashes target target_downsample_rate target_glu task task_emb_size tdnn_* temp
    tensorboard_logdir text_compression_level threshold_loss_scale tokenizer tpu train_subset transformers_version
    type unk untie_final_proj update_* use_bmuf use_old_adam use_plasma_view use_sharded_state
    use_weighted_layer_sum user_dir valid_subset validate_* vocab_size w2v_path wandb_project warmup_updates
    weight_decay write_checkpoints_asynchronously xvector_output_dim zero_mask zero_sharding
"""
_WITHOUT_EFFECT = re.compile("|".join(re.escape(word).replace(r"\*", ".*") for word in WITHOUT_EFFECT.split()))


class Recorded(Mapping[Any, Any]):
    """A mapping, and those inside it, with a record of the keys whose values were asked for."""

    def __init__(self, content: Mapping[Any, Any]) -> None:
        self._content = content
        self._inside: dict[Any, Recorded] = {}
        self._seen: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        value = self._content[key]
        self._seen.add(key)
        if not isinstance(value, Mapping):
            return value
        return self._inside.setdefault(key, Recorded(value))

    def __contains__(self, key: object) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[Any]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return repr(self._content)

    def unread(self) -> tuple[str, ...]:
        """Dotted paths of the values that nobody asked for in the sections that describe the model.

        Those are the sections of which several values were asked for. A name that was asked for in one of them is
        known in all, and so is what is in `WITHOUT_EFFECT`.
        """
        return tuple(self._unread("", self._all_seen()))

    def _unread(self, path: str, known: set[Any]) -> Iterator[str]:
        if sum(key not in self._inside for key in self._seen) >= SEVERAL:
            names = [key for key in self._content if key not in known]
            yield from (f"{path}{key}" for key in names if not _WITHOUT_EFFECT.fullmatch(str(key)))
        for key, inside in self._inside.items():
            yield from inside._unread(f"{path}{key}.", known)

    def _all_seen(self) -> set[Any]:
        return self._seen.union(*(inside._all_seen() for inside in self._inside.values()))
