// Compile requests for tests: any config, on a made-up target whose kernels can be told what to want.
import type { CompileRequest } from '../../src/compiler/request.ts';
import { GATED_PRODUCTS } from '../../src/ir/ops/gated-products.ts';
import { OPS } from '../../src/ir/ops/index.ts';
import { FED_PRODUCTS } from '../../src/ir/ops/product-fusions.ts';
import type { KernelDescription } from '../../src/kernels/kernel.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { findModel } from '../../src/models/registry.ts';

const FUSED_WITH_OTHERS = new Set(
  [...GATED_PRODUCTS, ...FED_PRODUCTS.map(({ op }) => op)].map(({ name }) => name),
);

/**
 * One kernel for every op but for products fused with what they read or what reads them, which a cpu has not either;
 * `rowMajor` weights, no workspace; `changes` by op.
 */
export function plainKernels(
  changes: Readonly<Record<string, Partial<KernelDescription>>> = {},
): KernelDescription[] {
  const ops = [...OPS.keys()].filter((op) => !FUSED_WITH_OTHERS.has(op));
  return ops.map((op) => ({
    op,
    weightLayout: () => 'rowMajor',
    variants: () => [{ kernel: op, maxRows: null }],
    workspaceBytes: () => 0,
    ...changes[op],
  }));
}

/** What the cpu device wants: panels for products, which embeddings can read as well. */
export function panelKernels(): KernelDescription[] {
  return plainKernels({
    linear: { weightLayout: () => 'panel16' },
    embedding: { acceptsAnyLayout: true },
  });
}

export function compileRequest(config: HFConfig, changes: Partial<CompileRequest> = {}): CompileRequest {
  const definition = findModel(config);
  return {
    definition,
    config,
    tensors: null,
    checkpointHash: null,
    target: { kind: 'reference', arch: 'any' },
    recipe: { weightDType: 'float32', quantization: null, kvDType: 'float32', activationPrecision: 'auto' },
    limits: { maxNumBatchedTokens: 64, maxNumSeqs: 8, maxNumLogitRows: 8 },
    blockSize: 16,
    maxModelLen: definition.facts(config).maxPositions,
    kernels: plainKernels(),
    ...changes,
  };
}

/** A llama small enough to read its whole plan. */
export const TINY_LLAMA: HFConfig = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  vocab_size: 96,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
};

export const TINY_GPT2: HFConfig = {
  architectures: ['GPT2LMHeadModel'],
  model_type: 'gpt2',
  vocab_size: 96,
  n_embd: 32,
  n_layer: 2,
  n_head: 4,
  n_positions: 64,
};
