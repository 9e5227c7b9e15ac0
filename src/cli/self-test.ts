// The numeric self-test of `needletail doctor`: tiny models that together launch every kernel, each launch by itself.
import { greedySampling } from '../bench/cuda/steps.ts';
import { dummySource } from '../checkpoint/dummy.ts';
import { compile } from '../compiler/compile.ts';
import { expectedTensors } from '../compiler/expected-tensors.ts';
import { quantizationRules } from '../compiler/quantization-rules.ts';
import { checkLaunches, type LaunchCheck } from '../device/cuda/check-launches.ts';
import type { CudaDevice } from '../device/cuda/cuda-device.ts';
import type { StepBatch } from '../device/step.ts';
import { CUDA_KERNELS } from '../kernels/cuda/index.ts';
import type { HFConfig } from '../models/model-definition.ts';
import { findModel } from '../models/registry.ts';
import type { FloatDType } from '../tensor/dtype.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../tensor/precision.ts';

const BLOCK_SIZE = 16;
const NUM_BLOCKS = 16;
/** Tokens of the first sequence, and of the second. */
const PROMPT_LENGTHS = [70, 9];
const VOCAB_SIZE = 96;

/** A few roundings of the type. */
const TOLERANCES = { float32: 1e-4, bfloat16: 3e-2, float16: 4e-3 } as const;
/** What a launch rounds to codes before it multiplies them may become the next code, in fp8 a 16th of the value away. */
const FP8_TOLERANCE = 1 / 16;

const SIZES = {
  vocab_size: VOCAB_SIZE,
  hidden_size: 128,
  intermediate_size: 192,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 128,
};

/** Between them every op on numbers that has a kernel. */
const FLOAT_MODELS: readonly HFConfig[] = [
  { ...SIZES, architectures: ['LlamaForCausalLM'], attention_bias: true },
  { ...SIZES, architectures: ['Gemma2ForCausalLM'], head_dim: 64, sliding_window: 16 },
  { ...SIZES, architectures: ['Qwen3ForCausalLM'], head_dim: 32 },
  { ...SIZES, architectures: ['CohereForCausalLM'] },
  { ...SIZES, architectures: ['MixtralForCausalLM'], num_local_experts: 4, num_experts_per_tok: 2 },
  {
    architectures: ['GPT2LMHeadModel'],
    vocab_size: VOCAB_SIZE,
    n_embd: 128,
    n_layer: 2,
    n_head: 4,
    n_positions: 128,
  },
  {
    architectures: ['MptForCausalLM'],
    vocab_size: VOCAB_SIZE,
    d_model: 128,
    n_heads: 4,
    n_layers: 2,
    expansion_ratio: 2,
    max_seq_len: 128,
    attn_config: { alibi: true, clip_qkv: 0.5 },
  },
  {
    ...SIZES,
    architectures: ['DeepseekV2ForCausalLM'],
    num_key_value_heads: 4,
    kv_lora_rank: 32,
    q_lora_rank: null,
    qk_nope_head_dim: 16,
    qk_rope_head_dim: 16,
    v_head_dim: 16,
    n_routed_experts: 4,
    num_experts_per_tok: 2,
    moe_intermediate_size: 64,
    first_k_dense_replace: 1,
  },
];

/** Every kind of product: on normed and activated values, on plain ones and on ones that products share, with biases, of experts. */
const LARGER_SIZES = { ...SIZES, hidden_size: 256, intermediate_size: 512 };
const QUANTIZED_MODELS: readonly HFConfig[] = [
  { ...LARGER_SIZES, architectures: ['LlamaForCausalLM'], attention_bias: true },
  { ...LARGER_SIZES, architectures: ['MixtralForCausalLM'], num_local_experts: 4, num_experts_per_tok: 2 },
  { ...LARGER_SIZES, architectures: ['CohereForCausalLM'] },
  {
    architectures: ['GPTJForCausalLM'],
    vocab_size: VOCAB_SIZE,
    n_embd: 256,
    n_layer: 2,
    n_head: 4,
    n_positions: 128,
    rotary_dim: 32,
  },
  {
    architectures: ['GPT2LMHeadModel'],
    vocab_size: VOCAB_SIZE,
    n_embd: 256,
    n_layer: 2,
    n_head: 4,
    n_positions: 128,
  },
];

/** What the models compute in. */
export interface SelfTest {
  readonly name: string;
  readonly dtype: FloatDType;
  readonly quantization: Quantization | null;
  readonly models: readonly HFConfig[];
  /** How far an element may be off, as a share of its operand's largest. */
  readonly tolerance: number;
}

export const SELF_TESTS: readonly SelfTest[] = [
  ...(['float32', 'bfloat16', 'float16'] as const).map((dtype) => ({
    name: dtype,
    dtype,
    quantization: null,
    models: FLOAT_MODELS,
    tolerance: TOLERANCES[dtype],
  })),
  ...(['int8', 'int4', 'fp8', 'smoothquant'] as const).map((quantization) => ({
    name: quantization,
    dtype: 'bfloat16' as const,
    quantization,
    models: QUANTIZED_MODELS,
    tolerance: quantization === 'fp8' ? FP8_TOLERANCE : TOLERANCES.bfloat16,
  })),
];

/** Every launch of the test's models, for a step of prompts and one of decodes. Throws for a recipe that the GPU lacks. */
export async function selfTest(device: CudaDevice, test: SelfTest): Promise<LaunchCheck[]> {
  const checks: LaunchCheck[] = [];
  for (const config of test.models) checks.push(...(await testModel(device, config, test)));
  return checks;
}

function testModel(
  device: CudaDevice,
  config: HFConfig,
  { dtype, quantization }: SelfTest,
): Promise<LaunchCheck[]> {
  const rules =
    quantization === null ? null : quantizationRules(quantization, null, DEFAULT_QUANTIZATION_KEEP);
  const plan = compile({
    definition: findModel(config),
    config,
    tensors: null,
    checkpointHash: null,
    target: device.target,
    recipe: { weightDType: dtype, quantization: rules, kvDType: dtype, activationPrecision: 'auto' },
    limits: { maxNumBatchedTokens: 128, maxNumSeqs: 2, maxNumLogitRows: 4 },
    blockSize: BLOCK_SIZE,
    maxModelLen: 128,
    kernels: CUDA_KERNELS,
  });
  const source = dummySource(expectedTensors(plan, dtype), 1);
  const numGroups = plan.kvCacheGroups.length;
  const prompts = PROMPT_LENGTHS.map((length) => [0, length] as const);
  const decodes = PROMPT_LENGTHS.map((length) => [length, length + 1] as const);
  const steps = [prompts, decodes].map((ranges) => greedyStep(ranges, numGroups));
  return checkLaunches(device.runtime, plan, source, steps, NUM_BLOCKS);
}

/** Tokens `[start, end)` of each sequence; sequence s owns every second block from s on. */
function greedyStep(ranges: readonly (readonly [number, number])[], numGroups: number): StepBatch {
  const numSeqs = ranges.length;
  const tokens = ranges.flatMap(([start, end], seq) =>
    Array.from({ length: end - start }, (_, i) => ({ seq, position: start + i })),
  );
  const cuSeqlensQ = [0];
  for (const [start, end] of ranges) cuSeqlensQ.push(cuSeqlensQ.at(-1)! + end - start);
  const maxBlocksPerSeq = NUM_BLOCKS / numSeqs;
  const blockOf = (seq: number, block: number): number => block * numSeqs + seq;
  const group = {
    slotMapping: Int32Array.from(
      tokens,
      ({ seq, position }) =>
        blockOf(seq, Math.floor(position / BLOCK_SIZE)) * BLOCK_SIZE + (position % BLOCK_SIZE),
    ),
    blockTables: Int32Array.from(
      ranges.flatMap((_, seq) => Array.from({ length: maxBlocksPerSeq }, (_, i) => blockOf(seq, i))),
    ),
    maxBlocksPerSeq,
  };
  return {
    numTokens: tokens.length,
    numSeqs,
    tokenIds: Int32Array.from(tokens, ({ seq, position }) => (17 * seq + 5 * position) % VOCAB_SIZE),
    positions: Int32Array.from(tokens, ({ position }) => position),
    cuSeqlensQ: Int32Array.from(cuSeqlensQ),
    contextLens: Int32Array.from(ranges, ([, end]) => end),
    groups: Array.from({ length: numGroups }, () => group),
    logitRows: Int32Array.from(cuSeqlensQ.slice(1), (end) => end - 1),
    blockCopies: new Int32Array(0),
    sampling: greedySampling(numSeqs),
    returnLogits: false,
  };
}
