// Llama 2 and 3, and everything published in their shape.
import { z } from 'zod';
import type { RopeParameters } from '../ir/ops/rope.ts';
import { Attention } from '../nn/attention.ts';
import { Embedding, LMHead } from '../nn/embedding.ts';
import { add } from '../nn/functional.ts';
import { GatedMLP } from '../nn/mlp.ts';
import { Module } from '../nn/module.ts';
import { RMSNorm } from '../nn/norm.ts';
import type { Scope, Tensor } from '../nn/tensor.ts';
import { activationName, count, evenShare, layerCount } from './config.ts';
import { defineModel } from './define-model.ts';
import type { ModelFacts } from './model-definition.ts';
import { maxContextLength, readRope, ropeFields, ropeFor } from './rope-config.ts';

/** What Llama and its relatives name alike. */
export const llamaFields = {
  vocab_size: count,
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: layerCount,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  hidden_act: activationName.default('silu'),
  max_position_embeddings: count.default(2048),
  rms_norm_eps: z.number().default(1e-6),
  tie_word_embeddings: z.boolean().default(false),
  ...ropeFields,
};

const schema = z.object({
  ...llamaFields,
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
});

export type LlamaConfig = z.output<typeof schema>;

class LlamaLayer extends Module {
  readonly inputNorm: RMSNorm;
  readonly attention: Attention;
  readonly postAttentionNorm: RMSNorm;
  readonly mlp: GatedMLP;

  constructor(scope: Scope, config: LlamaConfig, layer: number, rope: RopeParameters, window: number | null) {
    super(scope);
    const { hidden_size: hiddenSize, num_attention_heads: numHeads, rms_norm_eps: eps } = config;
    this.inputNorm = new RMSNorm(scope.at('input_layernorm'), hiddenSize, eps);
    this.attention = new Attention(scope.at('self_attn'), {
      ...{ layer, hiddenSize, numHeads, headDim: headDimOf(config), window, rope, bias: config.attention_bias },
      numKvHeads: config.num_key_value_heads ?? numHeads,
      names: { q: 'q_proj', k: 'k_proj', v: 'v_proj', output: 'o_proj' },
    });
    this.postAttentionNorm = new RMSNorm(scope.at('post_attention_layernorm'), hiddenSize, eps);
    this.mlp = new GatedMLP(scope.at('mlp'), {
      ...{ hiddenSize, intermediateSize: config.intermediate_size },
      ...{ activation: config.hidden_act, bias: config.mlp_bias },
    });
  }

  protected forward(x: Tensor): Tensor {
    const attended = add(x, this.attention.apply(this.inputNorm.apply(x)));
    return add(attended, this.mlp.apply(this.postAttentionNorm.apply(attended)));
  }
}

/** Logits of a decoder in Llama's shape; `window`: tokens that attention looks back at. */
export function llamaLogits(scope: Scope, config: LlamaConfig, contextLength: number, window: number | null): Tensor {
  const { vocab_size: vocabSize, hidden_size: hiddenSize } = config;
  const rope = ropeFor(readRope(config), headDimOf(config), contextLength);
  const model = scope.at('model');
  const embedding = new Embedding(model.at('embed_tokens'), vocabSize, hiddenSize);
  let x = embedding.apply(scope.tracer.input('tokenIds'));
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    x = new LlamaLayer(model.at(`layers.${layer}`), config, layer, rope, window).apply(x);
  }
  x = new RMSNorm(model.at('norm'), hiddenSize, config.rms_norm_eps).apply(x);
  return new LMHead(scope.at('lm_head'), vocabSize, hiddenSize, config.tie_word_embeddings ? embedding : null).apply(x);
}

export function llamaFacts(config: LlamaConfig): Omit<ModelFacts, 'numParameters'> {
  return {
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    numLayers: config.num_hidden_layers,
    maxPositions: maxContextLength(readRope(config)),
  };
}

function headDimOf(config: LlamaConfig): number {
  return config.head_dim ?? evenShare(config.hidden_size, config.num_attention_heads);
}

/** Frequencies that old checkpoints carry along; they follow from the config. */
export function isRotaryBuffer(tensor: string): boolean {
  return tensor.endsWith('.rotary_emb.inv_freq');
}

/** Checkpoints may lack the prefix of the inner model; a shared table may be stored under its other name. */
export function llamaTensorNames(tensor: string): readonly string[] {
  const names = [tensor, tensor.replace(/^model\./, '')];
  return tensor === 'model.embed_tokens.weight' ? [...names, 'lm_head.weight'] : names;
}

export const llama = defineModel({
  modelType: 'llama',
  architectures: ['LlamaForCausalLM'],
  schema,
  facts: llamaFacts,
  forward: (scope, config, contextLength) => llamaLogits(scope, config, contextLength, null),
  tensorNames: llamaTensorNames,
  isBuffer: isRotaryBuffer,
});
