// A decoder of one's own: state its mathematics, let the compiler merge and fuse it, see what the cpu would run.
import { Attention, Embedding, functional, LMHead, RMSNorm, ropeParameters } from 'needletail';
import { compile, createDevice, defineModel, kernelsFor, printPlan } from 'needletail';
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

const device = await createDevice('auto', { numThreads: null });
const place = { target: device.target, kernels: kernelsFor(device.target) };
const model = { definition, config: { num_heads: 4 }, tensors: null, checkpointHash: null };
const recipe = { weightDType: 'bfloat16', kvDType: 'bfloat16', activationPrecision: 'auto' } as const;
const limits = { maxNumBatchedTokens: 64, maxNumSeqs: 8, maxNumLogitRows: 8 };
console.log(
  printPlan(compile({ ...model, ...place, recipe, limits, blockSize: 16, maxModelLen: maxPositions })),
);
await device.dispose();
