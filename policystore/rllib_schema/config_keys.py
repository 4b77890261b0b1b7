"""List the keys of RLlib's config that are not recorded, and the keys that name registered classes.

The keys that are not recorded say nothing about a policy. The list of these keys was reviewed by
hand. It is grouped by the methods of ``AlgorithmConfig`` that set the keys
(algorithms/algorithm_config.py). A key that is not listed is kept. So the keys of a policy itself,
of any algorithm or of the user, are never lost.
"""

from __future__ import annotations

__all__ = ["DROPPED", "REGISTRY_KEYS", "is_dropped"]

REGISTRY_KEYS = ("custom_model", "custom_action_dist", "custom_preprocessor")
"""Keys whose text RLlib looks up in a registry of the process (models/catalog.py:172-176, 372-397
and 869)."""

_RESOURCES = """
    extra_python_environs_for_driver extra_python_environs_for_worker num_cpus_for_main_process
    custom_resources_for_main_process num_gpus _fake_gpus placement_strategy local_gpu_idx
    num_cpus_per_worker num_gpus_per_worker custom_resources_per_worker num_cpus_for_local_worker
    num_learner_workers num_cpus_per_learner_worker num_gpus_per_learner_worker num_learners
    num_cpus_per_learner num_gpus_per_learner custom_resources_per_learner simple_optimizer
    num_aggregator_actors_per_learner max_requests_in_flight_per_aggregator_actor
    max_requests_in_flight_per_learner num_multi_gpu_tower_stacks worker_index num_workers
    num_aggregation_workers num_gpu_loader_threads num_tree_aggregators
    max_requests_in_flight_per_sampler_worker max_requests_in_flight_per_aggregator_worker
    learner_queue_size learner_queue_timeout timeout_s_sampler_manager timeout_s_aggregator_manager
    simple_queue_size _env_runners_only _skip_learners
"""

# A policy is rebuilt for torch on one CPU. These keys tune other frameworks, compilation or DDP.
_FRAMEWORK = """
    framework eager_tracing eager_max_retraces tf_session_args local_tf_session_args
    torch_compile_learner torch_compile_learner_what_to_compile torch_compile_learner_dynamo_mode
    torch_compile_learner_dynamo_backend torch_compile_worker torch_compile_worker_dynamo_mode
    torch_compile_worker_dynamo_backend torch_ddp_kwargs torch_skip_nan_gradients
    enable_tf1_exec_eagerly _tf_policy_handles_more_than_one_loss framework_str
"""

# Spaces, action handling and connectors have fields of their own in the spec.
_ENVIRONMENT = """
    env env_config observation_space action_space render_env clip_rewards normalize_actions
    clip_actions disable_env_checking is_atari _is_atari action_mask_key env_task_fn
    auto_wrap_old_gym_envs observation_fn remote_worker_envs remote_env_batch_wait_ms
    gym_env_vectorize_mode
"""

_ROLLOUTS = """
    env_runner_cls num_env_runners create_local_env_runner create_env_on_local_worker
    create_env_on_driver num_envs_per_env_runner num_cpus_per_env_runner num_gpus_per_env_runner
    custom_resources_per_env_runner validate_env_runners_after_construction sample_timeout_s
    max_requests_in_flight_per_env_runner compress_observations rollout_fragment_length batch_mode
    use_worker_filter_stats update_worker_filter_stats sample_collector
    sampler_perf_stats_ema_coef num_rollout_workers num_envs_per_worker worker_cls
    validate_workers_after_construction synchronize_filters synchronize_filter
    sync_filters_on_rollout_workers_timeout_s enable_connectors episodes_to_numpy
    episode_lookback_horizon merge_env_runner_states broadcast_env_runner_states
    use_env_runner_state_server env_runner_state_server_max_concurrency
    _dont_auto_sync_env_runner_states broadcast_interval
    store_buffer_in_checkpoints
"""

_NEW_STACK = """
    enable_rl_module_and_learner enable_env_runner_and_connector_v2 _enable_rl_module_api
    _enable_new_api_stack _rl_module_spec rl_module_spec _model_config model_config
    model_config_dict _per_module_overrides algorithm_config_overrides_per_module
    env_to_module_connector _env_to_module_connector module_to_env_connector
    _module_to_env_connector learner_connector _learner_connector learner_class _learner_class
    learner_config_dict add_default_connectors_to_env_to_module_pipeline
    add_default_connectors_to_module_to_env_pipeline add_default_connectors_to_learner_pipeline
    _train_batch_size_per_learner train_batch_size_per_learner _prior_exploration_config
    _torch_grad_scaler_class _torch_lr_scheduler_classes __multi_rl_module_spec
    _multi_rl_module_spec
"""

_OTHERS = """
    policies policy_map_capacity policy_map_cache policy_mapping_fn policies_to_train
    policy_states_are_swappable count_steps_by replay_mode __policy_id in_evaluation
    keep_per_episode_custom_metrics metrics_episode_collection_timeout_s
    metrics_num_episodes_for_smoothing min_time_s_per_iteration min_train_timesteps_per_iteration
    min_sample_timesteps_per_iteration log_gradients custom_stats_cls_lookup stats_cls_lookup
    export_native_model_files checkpoint_trainable_policies_only log_level logger_creator
    logger_config log_sys_usage fake_sampler seed restart_failed_env_runners
    ignore_env_runner_failures max_num_env_runner_restarts delay_between_env_runner_restarts_s
    restart_failed_sub_environments num_consecutive_env_runner_failures_tolerance
    env_runner_health_probe_timeout_s env_runner_restore_timeout_s recreate_failed_env_runners
    ignore_worker_failures recreate_failed_workers max_num_worker_restarts
    delay_between_worker_restarts_s num_consecutive_worker_failures_tolerance
    worker_health_probe_timeout_s worker_restore_timeout_s callbacks callbacks_class
    _validate_config _use_msgpack_checkpoints _disable_execution_plan_api algo_class _is_frozen
    custom_eval_function custom_evaluation_function custom_async_evaluation_function
    off_policy_estimation_methods ope_split_batch_by_episode enable_async_evaluation
    always_attach_evaluation_results class _is_online _run_training_always_in_thread
    _evaluation_parallel_to_training_wo_thread monitor collect_metrics_timeout
    metrics_smoothing_episodes min_iter_time_s min_time_s_per_reporting timesteps_per_iteration
    min_sample_timesteps_per_reporting min_train_timesteps_per_reporting
"""

_OFFLINE_DATA = """
    input input_ input_config input_read_method input_read_method_kwargs input_read_schema
    input_read_episodes input_read_sample_batches input_read_batch_size input_filesystem
    input_filesystem_kwargs input_compress_columns input_spaces_jsonable materialize_data
    materialize_mapped_data map_batches_kwargs iter_batches_kwargs ignore_final_observation
    prelearner_class prelearner_buffer_class prelearner_buffer_kwargs
    prelearner_module_synch_period prelearner_use_recorded_module_states
    dataset_num_iters_per_learner dataset_num_iters_per_eval_runner
    dataset_num_iters_per_offline_eval_runner actions_in_input_normalized postprocess_inputs
    shuffle_buffer_size output output_config output_compress_columns output_max_file_size
    output_max_rows_per_file output_write_remaining_data output_write_method
    output_write_method_kwargs output_filesystem output_filesystem_kwargs output_write_episodes
    num_offline_eval_runners num_cpus_per_offline_eval_runner num_gpus_per_offline_eval_runner
    custom_resources_per_offline_eval_runner max_requests_in_flight_per_offline_eval_runner
    broadcast_offline_eval_runner_states validate_offline_eval_runners_after_construction
    restart_failed_offline_eval_runners ignore_offline_eval_runner_failures
    max_num_offline_eval_runner_restarts input_evaluation _set_off_policy_estimation_methods
"""

# Keys of Ray before 2.40: checkpoints come from such versions, too.
_EARLIER = """
    after_train_step multiagent _learner_hps num_cpus_for_driver sample_async auto_wrap_old_gym_envs
    _enable_learner_api _validate_exploration_conf_and_rl_modules horizon soft_horizon
    no_done_at_end replay_sequence_length
"""

DROPPED = frozenset(
    "".join(
        [
            _RESOURCES,
            _FRAMEWORK,
            _ENVIRONMENT,
            _ROLLOUTS,
            _NEW_STACK,
            _OTHERS,
            _OFFLINE_DATA,
            _EARLIER,
        ]
    ).split()
)
"""Keys of ``AlgorithmConfig`` that a snapshot does not record."""

_DROPPED_PREFIXES = ("callbacks_on_", "evaluation_", "offline_")


def is_dropped(key: str) -> bool:
    """Return whether snapshots do not record this key of a policy's config."""
    return key in DROPPED or key.startswith(_DROPPED_PREFIXES)
