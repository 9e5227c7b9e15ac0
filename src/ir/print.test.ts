import { expect, it } from 'vitest';
import { GraphBuilder } from './graph-builder.ts';
import { printGraph } from './print.ts';

it('writes one line per input, parameter, cache, node and output, with shapes', () => {
  const builder = new GraphBuilder('tiny');
  const rope = {
    rotaryDim: 12,
    interleaved: false,
    inverseFrequencies: [1, 0.5, 0.25, 0.125, 0.1, 0],
    attentionFactor: 1,
  };
  const table = builder.parameter('embed.weight', [8, 12], { transpose: true });
  const [x] = builder.apply('embedding', 'embed', [builder.input('tokenIds'), table]);
  const [turned] = builder.apply('rope', 'attn', [x, builder.input('positions')], { headDim: 12, rope });
  const group = builder.kvCache({
    ...{ layer: 0, numKvHeads: 1, keyHeadDim: 12, valueHeadDim: 12, window: 4, dtype: 'bfloat16' },
  } as const);
  builder.apply('kvWrite', 'attn', [turned, x, builder.input('slotMapping', group)], { layer: 0 });
  const [logits] = builder.apply('linear', '', [turned, table]);
  builder.output('logits', logits);
  expect(printGraph(builder.build())).toBe(`graph tiny
inputs:
  tokenIds: int32 [numTokens]
  positions: int32 [numTokens]
  slotMapping: int32 [numTokens]
parameters:
  embed.weight: float32 [8, 12], stored transposed
kv caches:
  layer 0: bfloat16 keys [1, 12], values [1, 12], window 4
nodes:
  %2 = embedding(tokenIds, embed.weight): float32 [numTokens, 12]  # embed
  %4 = rope(%2, positions) {headDim: 12, rope: {rotaryDim: 12, interleaved: false, inverseFrequencies: [1, 0.5, 0.25, 0.125, … 6 in all], attentionFactor: 1}}: float32 [numTokens, 12]  # attn
  %6 = kvWrite(%4, %2, slotMapping) {layer: 0}: token  # attn
  %7 = linear(%4, embed.weight): float32 [numTokens, 8]
outputs:
  logits: %7
`);
});
