// A decoder of one's own: state its mathematics, and run it. The compiler merges, fuses and places it by itself.
import { Attention, Embedding, functional, LMHead, RMSNorm, ropeParameters } from 'needletail';
import { defineModel, LLM } from 'needletail';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';

const facts = { vocabSize: 1000, hiddenSize: 128, numLayers: 2, maxPositions: 512 };
const { vocabSize, hiddenSize, numLayers, maxPositions } = facts;

const definition = defineModel({
  modelType: 'attention-only',
  architectures: ['AttentionOnlyForCausalLM'],
  schema: z.object({ num_heads: z.int().positive() }),
  facts: () => facts,
  forward(scope, { num_heads: numHeads }, contextLength) {
    const headDim = hiddenSize / numHeads;
    const angles = { rotaryDim: headDim, theta: 10_000, scaling: { type: 'default' } } as const;
    const rope = ropeParameters({ ...angles, maxPositions, contextLength });
    const names = { q: 'q', k: 'k', v: 'v', output: 'o' };
    const shape = { hiddenSize, numHeads, numKvHeads: numHeads, headDim, rope, names, bias: false };
    const embedding = new Embedding(scope.at('embedding'), vocabSize, hiddenSize);
    let x = embedding.apply(scope.tracer.input('tokenIds')); // [numTokens, hiddenSize]
    for (let layer = 0; layer < numLayers; layer++) {
      const normed = new RMSNorm(scope.at(`norm.${layer}`), hiddenSize, 1e-5).apply(x);
      x = functional.add(x, new Attention(scope.at(`attention.${layer}`), { layer, ...shape }).apply(normed));
    }
    return new LMHead(scope, { vocabSize, inputs: hiddenSize, tied: embedding, bias: false }).apply(x);
  },
});

const folder = await mkdtemp(join(tmpdir(), 'attention-only-')); // a checkpoint without weights: random ones will do
const config = { architectures: definition.architectures, num_heads: 4 };
await writeFile(join(folder, 'config.json'), JSON.stringify(config));
const untrained = { loadFormat: 'dummy', skipTokenizerInit: true } as const;
const llm = await LLM.load(folder, { ...untrained, models: [definition], inProcess: true });
const { choices } = await llm.generate({ promptTokenIds: [1, 2, 3] }, { maxTokens: 8, seed: 1 }).collect();
console.log(`on ${llm.engine.info.device}, token ids: ${choices[0].tokenIds.join(' ')}`);
await llm.close().then(() => rm(folder, { recursive: true }));
