// What ops say about types: the shapes they yield, and messages for those they cannot take.
import { describe, expect, it } from 'vitest';
import type { Attributes, ValueType } from '../graph.ts';
import { OPS } from './index.ts';

const float = (...shape: ValueType['shape']): ValueType => ({ dtype: 'float32', shape });
const int = (...shape: ValueType['shape']): ValueType => ({ dtype: 'int32', shape });
const token: ValueType = { dtype: 'token', shape: [] };

const rope = { rotaryDim: 4, interleaved: false, inverseFrequencies: [1, 0.5], attentionFactor: 1 };
const heads = { layer: 0, numHeads: 4, numKvHeads: 2, headDim: 8, valueHeadDim: 8 };
const attention = { ...heads, scale: 1, window: null, softcap: null, alibiSlopes: null };
const step = [int('numSeqs'), int('numSeqs'), int('numSeqs')];
const x = float('numTokens', 32);
const kv = float('numTokens', 16);
const perToken = int('numTokens');

function infer(op: string, inputs: readonly ValueType[], attributes: Attributes = {}): readonly ValueType[] {
  return OPS.get(op)!.infer({ label: 'model.layers.0', inputs, attributes });
}

describe('types that ops yield', () => {
  it.each([
    ['embedding', [perToken, float(100, 32)], {}, [x]],
    ['linear', [x, float(64, 32)], {}, [float('numTokens', 64)]],
    ['linear', [x, float(64, 32), float(64)], {}, [float('numTokens', 64)]],
    ['rmsNorm', [x, float(8)], { eps: 1e-6, groupSize: 8, weightOffset: 0 }, [x]],
    ['layerNorm', [x, float(32), float(32)], { eps: 1e-6, groupSize: 32 }, [x]],
    ['addRmsNorm', [x, x, float(32)], { eps: 1e-6, weightOffset: 0 }, [x, x]],
    ['addLayerNorm', [x, x, float(32)], { eps: 1e-6 }, [x, x]],
    ['add', [x, x], {}, [x]],
    ['activation', [x], { kind: 'silu' }, [x]],
    ['gatedActivation', [x], { kind: 'silu' }, [kv]],
    ['slice', [x], { start: 16, columns: 16 }, [kv]],
    ['permuteColumns', [x, float(32)], {}, [x]],
    ['gatherRows', [x, int('numLogitRows')], {}, [float('numLogitRows', 32)]],
    ['rope', [x, perToken], { headDim: 8, rope }, [x]],
    ['kvWrite', [kv, kv, perToken], { layer: 3 }, [token]],
    ['attention', [x, token, ...step], { ...attention, valueHeadDim: 4 }, [kv]],
    ['ropeKvWrite', [x, kv, kv, perToken, perToken], { ...heads, rope }, [x, token]],
  ] as const)('%s', (op, inputs, attributes, outputs) => {
    expect(infer(op, inputs, attributes)).toEqual(outputs);
  });
});

describe('what ops refuse, by op, label and shapes', () => {
  it.each([
    ['linear', [x, float(64, 31)], {}, 'linear at model.layers.0: x and weight must have the same columns'],
    ['linear', [x, float(64, 31)], {}, 'x: float32 [numTokens, 32], weight: float32 [64, 31]'],
    ['linear', [x], {}, 'takes (x, weight, bias?), was given 1 operands'],
    ['linear', [x, float(64, 32), float(63)], {}, 'bias must have 64 elements'],
    ['linear', [perToken, float(64, 32)], {}, 'x must be floats of rank 2'],
    ['add', [x, kv], {}, 'a and b must have the same columns'],
    ['add', [x, float('numLogitRows', 32)], {}, 'a and b must have the same rows'],
    ['scale', [x], {}, 'bad attributes, factor'],
    ['activation', [x], { kind: 'swish' }, 'bad attributes, kind'],
    ['activation', [x], { kind: 'silu', alpha: 1 }, 'bad attributes'],
    ['embedding', [x, float(100, 32)], {}, 'ids must be int32'],
    ['slice', [x], { start: 20, columns: 16 }, 'columns [20, 36) are not all there'],
    ['rmsNorm', [x, float(5)], { eps: 0, groupSize: 5, weightOffset: 0 }, 'a multiple of groupSize 5'],
    ['gatedActivation', [float('numTokens', 3)], { kind: 'silu' }, 'an even number of columns'],
    ['rope', [x, perToken], { headDim: 2, rope }, 'rotaryDim 4 exceeds headDim 2'],
    ['rope', [x, perToken], { headDim: 8, rope: { ...rope, rotaryDim: 8 } }, '2 frequencies for rotaryDim 8'],
    ['rope', [x, int('numSeqs')], { headDim: 8, rope }, 'positions must have one element per row of x'],
    ['attention', [kv, token, ...step], attention, 'q must have 4 · 8 columns'],
    ['attention', [x, perToken, ...step], attention, 'token must be the token of a cache write'],
    ['attention', [x, token, ...step], { ...attention, numKvHeads: 3 }, 'not a multiple of numKvHeads 3'],
    [
      'attention',
      [x, token, ...step],
      { ...attention, alibiSlopes: [1] },
      'alibiSlopes must have 4 elements',
    ],
    ['ropeKvWrite', [x, x, kv, perToken, perToken], { ...heads, rope }, 'k must have 2 · 8 columns'],
  ] as const)('%s: %#', (op, inputs, attributes, message) => {
    expect(() => infer(op, inputs, attributes)).toThrow(message);
  });
});
