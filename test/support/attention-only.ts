// A model definition as a user of the package writes one: layers of nothing but attention, sized by its config.
import { z } from 'zod';
import {
  Attention,
  defineModel,
  Embedding,
  functional,
  LMHead,
  RMSNorm,
  ropeParameters,
} from '../../src/index.ts';

const count = z.int().positive();

export const attentionOnly = defineModel({
  modelType: 'attention-only',
  architectures: ['AttentionOnlyForCausalLM'],
  schema: z.object({ vocab_size: count, hidden_size: count, num_layers: count, num_heads: count }),
  facts: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.hidden_size,
    numLayers: config.num_layers,
    maxPositions: 256,
  }),
  forward(scope, config, contextLength) {
    const { vocab_size: vocabSize, hidden_size: hiddenSize, num_heads: numHeads } = config;
    const headDim = hiddenSize / numHeads;
    const angles = { rotaryDim: headDim, theta: 10_000, scaling: { type: 'default' } } as const;
    const rope = ropeParameters({ ...angles, maxPositions: 256, contextLength });
    const names = { q: 'q', k: 'k', v: 'v', output: 'o' };
    const shape = { hiddenSize, numHeads, numKvHeads: numHeads, headDim, rope, names, bias: false };
    const embedding = new Embedding(scope.at('embedding'), vocabSize, hiddenSize);
    let x = embedding.apply(scope.tracer.input('tokenIds')); // [numTokens, hiddenSize]
    for (let layer = 0; layer < config.num_layers; layer++) {
      const normed = new RMSNorm(scope.at(`norm.${layer}`), hiddenSize, 1e-5).apply(x);
      x = functional.add(x, new Attention(scope.at(`attention.${layer}`), { layer, ...shape }).apply(normed));
    }
    return new LMHead(scope, { vocabSize, inputs: hiddenSize, tied: embedding, bias: false }).apply(x);
  },
});

/** Its config.json, with the vocabulary of the shipped tokenizer. */
export const ATTENTION_ONLY_CONFIG = {
  architectures: attentionOnly.architectures,
  ...{ vocab_size: 6144, hidden_size: 64, num_layers: 2, num_heads: 4 },
};
