"""What becomes of each argument of `trl.SFTConfig`: one table, which a test holds against the fields that TRL has.

Spelled out, because importing TRL would slow every command.
"""

from __future__ import annotations


def _because(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


_OF_FINETUNE = (
    "max_steps per_device_train_batch_size gradient_accumulation_steps learning_rate lr_scheduler_type "
    "warmup_steps max_length"
)

# What topoflow sets, or cannot honour in training, recording and planning alike, and why.
REFUSED = {
    **{name: f"say finetune.{name}" for name in _OF_FINETUNE.split()},
    **_because("it is the run's, of `seeds`", "seed data_seed"),
    **_because("training is counted in steps, finetune.max_steps", "num_train_epochs warmup_ratio"),
    **_because("the trainer's folder is deleted when the run is whole", "output_dir overwrite_output_dir"),
    **_because(
        "compute.save_steps says what is kept, and resuming is automatic",
        "save_strategy save_steps save_total_limit save_only_model save_on_each_node resume_from_checkpoint "
        "ignore_data_skip restore_callback_states_from_checkpoint enable_jit_checkpoint",
    ),
    **_because(
        "loss.csv has every step",
        "logging_strategy logging_steps logging_first_step logging_nan_inf_filter log_on_each_node",
    ),
    **_because(
        "training logs to the run's MLflow run",
        "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id",
    ),
    **_because(
        "there is no evaluation set; hidden states are recorded at recording.schedule",
        "eval_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps eval_do_concat_batches "
        "eval_use_gather_object eval_packing per_device_eval_batch_size prediction_loss_only include_for_metrics "
        "batch_eval_metrics bf16_full_eval fp16_full_eval do_train do_eval do_predict label_names "
        "load_best_model_at_end metric_for_best_model greater_is_better",
    ),
    **_because(
        "only the answer of a row is trained on",
        "completion_only_loss assistant_only_loss dataset_text_field dataset_kwargs remove_unused_columns "
        "length_column_name",
    ),
    **_because(
        "rows are never cut: those that are too long are left out", "truncation_mode packing_strategy"
    ),
    **_because("TRL does not keep max_length under it; say packing: true", "padding_free"),
    **_because(
        "the weights stay in tuned/",
        "push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push hub_revision",
    ),
    **_because(
        "say it of the model, under `model`",
        "model_name_or_path model_revision trust_remote_code dtype torch_dtype model_init_kwargs",
    ),
    **_because(
        "rows are shaped, prompts recorded and costs planned with the model's own tokenizer; change it in the "
        "model's folder (chat_template.jinja, tokenizer_config.json) and name that under `model`",
        "chat_template_path eos_token pad_token",
    ),
    **_because("say it of the text, under `objective`", "dataset_name dataset_config datasets"),
    **_because("say it under finetune.lora", "use_peft lora_r lora_alpha lora_dropout lora_target_modules"),
    **_because(
        "a stage is one process on one device",
        "local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend "
        "ddp_timeout fsdp fsdp_config deepspeed parallelism_config accelerator_config log_level_replica "
        "average_tokens_across_devices",
    ),
    **_because(
        "the batches are those of finetune, in an order that the seed alone decides",
        "auto_find_batch_size dataloader_in_order",
    ),
    **_because(
        "hidden states are recorded from the model as it is",
        "torch_compile torch_compile_backend torch_compile_mode use_cache",
    ),
    **_because("bars are shown where there is a terminal", "disable_tqdm"),
}

# What is passed on. None of these changes which rows there are or what is recorded of a prompt; `plan` heeds those
# that change memory or the number of tokens (activation checkpointing, packing, pad_to_multiple_of).
PASSED_ON = frozenset(
    """
    lr_scheduler_kwargs optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2 adam_epsilon
    max_grad_norm label_smoothing_factor bf16 fp16 tf32 activation_checkpointing activation_checkpointing_kwargs
    gradient_checkpointing gradient_checkpointing_kwargs activation_offloading use_liger_kernel liger_kernel_config
    neftune_noise_alpha torch_empty_cache_steps include_num_input_tokens_seen log_level full_determinism use_cpu
    dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context train_sampling_strategy debug skip_memory_metrics
    router_aux_loss_coef dataset_num_proc shuffle_dataset packing pad_to_multiple_of loss_type
    """.split()  # noqa: SIM905
)
