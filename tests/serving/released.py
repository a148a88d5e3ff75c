"""What released TensorRT-LLM takes on its command lines, and packages that pass for one.

The tables are from its sources, files and states as cited; where a state could not be tied to a tag, it says so.
"""

import re

# tensorrt_llm/commands/build.py (`parse_arguments`) and tensorrt_llm/plugin/plugin.py (`cli_plugin_args`), main between
# 1.2.0rc1 and 1.2.0: commits 65f1d153 and c20322ff.
_BUILD = """
    checkpoint_dir model_config build_config model_cls_file model_cls_name output_dir max_batch_size max_input_len
    max_seq_len max_decoder_seq_len max_beam_width max_num_tokens opt_num_tokens max_encoder_input_len
    max_prompt_embedding_table_size max_multimodal_len kv_cache_type paged_kv_cache input_timing_cache
    output_timing_cache profiling_verbosity strip_plan weight_sparsity weight_streaming fast_build workers log_level
    enable_debug_output visualize_network dry_run monitor_memory logits_dtype gather_context_logits
    gather_generation_logits gather_all_token_logits lora_dir lora_ckpt_source lora_target_modules max_lora_rank
    speculative_decoding_mode max_draft_len
    bert_attention_plugin gpt_attention_plugin gemm_plugin gemm_swiglu_plugin fp8_rowwise_gemm_plugin lora_plugin
    dora_plugin moe_plugin mamba_conv1d_plugin nccl_plugin low_latency_gemm_plugin low_latency_gemm_swiglu_plugin
    gemm_allreduce_plugin context_fmha bert_context_fmha_fp32_acc remove_input_padding tokens_per_block
    use_paged_context_fmha use_fp8_context_fmha fuse_fp4_quant multiple_profiles paged_state streamingllm
    norm_quant_fusion reduce_fusion user_buffer use_fused_mlp pp_reduce_scatter
    """
TRTLLM_BUILD = set(_BUILD.split())
# tensorrt_llm/commands/serve.py (`serve`). The first: commit 4c05a748, main in the autumn of 2025, before
# --custom_module_dirs; the script must refuse it. The second: main in the winter of 2025/26, after #9269, which the
# notes of 1.2.0rc4 list.
_SERVE = """
    tokenizer model port backend log_level max_beam_width max_batch_size max_num_tokens max_seq_len tp_size pp_size
    ep_size cluster_size gpus_per_node kv_cache_free_gpu_memory_fraction num_postprocess_workers trust_remote_code
    extra_llm_api_options reasoning_parser metadata_server_config_file server_role
    fail_fast_on_attention_window_too_large disagg_cluster_uri enable_chunked_prefill media_io_kwargs
    """
TRTLLM_SERVE_1_1 = set(_SERVE.split())
_SERVE_NEW = """
    custom_module_dirs custom_tokenizer config tensor_parallel_size pipeline_parallel_size context_parallel_size cp_size
    moe_expert_parallel_size moe_cluster_parallel_size free_gpu_memory_fraction revision tool_parser
    otlp_traces_endpoint chat_template grpc
    """
TRTLLM_SERVE_1_2 = TRTLLM_SERVE_1_1 | set(_SERVE_NEW.split())
# Fields of TorchLlmArgs that `get_llm_args` of the first serve.py above fills, and that the API page of 1.3.0rc26 and
# today's list; `enable_block_reuse` is of KvCacheConfig (examples/ and the page of trtllm-serve since 1.0).
LLM_API = {"tensor_parallel_size", "max_batch_size", "max_seq_len", "max_num_tokens", "enable_chunked_prefill"}
LLM_API |= {"kv_cache_config", "attn_backend"}
KV_CACHE = {"enable_block_reuse", "free_gpu_memory_fraction"}


def unknown_flags(script, table, command):
    """The flags of a script's command line that the table does not have."""
    line = script[script.index(f"\n{command}") if f"\n{command}" in script else script.index(command) :]
    return set(re.findall(r"--([a-z][a-z0-9_]*)", line)) - table


def installed(folder, version):
    """Makes a folder in which a package of that version is installed, as far as its metadata says."""
    info = folder / f"tensorrt_llm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")
    return folder


def program(folder, name, text):
    """Writes a program that passes for another."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / name).chmod(0o755)
    return folder
