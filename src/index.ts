// The package's public door: text in and out, the engine beneath it, and the definition and compilation of models.

// Text in, text out.
export { LLM, type Prompt, type RunOptions } from './llm/llm.ts';
export type { LLMParts } from './llm/parts.ts';
export type { LoadOptions } from './llm/load.ts';
export type { GenerateParams } from './llm/generate-params.ts';
export type { Generation } from './llm/generation.ts';
export type { ChatMessage, ChatPromptOptions } from './llm/chat.ts';
export type {
  GenerationChoice,
  GenerationChunk,
  GenerationResult,
  TokenLogprob,
  TopLogprob,
  Usage,
} from './llm/chunk.ts';
export type { GenerationDefaults, GenerationJob } from './llm/resolve.ts';
export { Tokenizer } from './tokenizer/tokenizer.ts';

// The engine: token ids in and out.
export { LLMEngine } from './engine/llm-engine.ts';
export { type LoadHooks, loadEngine } from './engine/load-engine.ts';
export { InProcessEngine } from './engine/engine-client.ts';
export { startEngineProcess } from './engine/process/engine-process.ts';
export { DEFAULT_ENGINE_CONFIG, type EngineConfig } from './engine/config.ts';
export { GREEDY, type SamplingParams } from './engine/sampling-params.ts';
export type {
  EngineClient,
  EngineInfo,
  EngineOutput,
  EngineRequest,
  EngineStats,
  RequestTiming,
} from './engine/protocol.ts';

// Defining models.
export { defineModel } from './models/define-model.ts';
export type { HFConfig, ModelDefinition, ModelFacts } from './models/model-definition.ts';
export { findModel, supportedArchitectures } from './models/registry.ts';
export { findPreset, presetNames } from './models/presets.ts';
export * as functional from './nn/functional.ts';
export { alibiSlopes } from './nn/alibi.ts';
export { Attention } from './nn/attention.ts';
export { ParallelBlock, PostNormBlock, SequentialBlock } from './nn/block.ts';
export { decoderLogits } from './nn/decoder.ts';
export { Embedding, LMHead } from './nn/embedding.ts';
export { MixtureOfExperts, separateExperts, stackedExperts } from './nn/experts.ts';
export { LatentAttention } from './nn/latent-attention.ts';
export { Linear } from './nn/linear.ts';
export { GatedMLP, MLP } from './nn/mlp.ts';
export { Module } from './nn/module.ts';
export { HeadLayerNorm, LayerNorm, RMSNorm } from './nn/norm.ts';
export { type RopeScaling, ropeParameters } from './nn/rope.ts';
export { Scope, Tensor } from './nn/tensor.ts';

// Compiling them.
export { compile, type CompileRequest } from './compiler/compile.ts';
export { type Ledger, memoryLedger } from './compiler/ledger.ts';
export { readPlanDirectory, writePlanDirectory } from './compiler/plan-directory.ts';
export type { Plan, Target } from './compiler/plan.ts';
export { printPlan } from './compiler/print-plan.ts';
export { printGraph } from './ir/print.ts';
export { createDevice, kernelsFor } from './device/create-device.ts';
export { type Checkpoint, openCheckpoint } from './checkpoint/checkpoint.ts';

export { type ErrorCode, isNeedletailError, NeedletailError } from './util/errors.ts';
export { VERSION } from './util/version.ts';
