// Codes that calibration made, as tensors of a checkpoint.
import { expect, it } from 'vitest';
import type { Parameter } from '../ir/graph.ts';
import { decodeTensor } from '../tensor/codes.ts';
import { CodeTensors } from './code-tensors.ts';
import type { ProductFormats } from './products.ts';

const FORMATS: ProductFormats = {
  weights: { dtype: 'float8_e4m3fn', groupSize: null, hasZeros: false },
  activations: { dtype: 'float8_e4m3fn', groupSize: null, isStatic: true },
};

function weightOf(tensor: string): Parameter {
  const place = { rowStart: 0, rowCount: 1, rowStep: 1, columnStart: 0, columnCount: 2 };
  return {
    name: tensor,
    value: { id: 0, name: tensor, type: { dtype: 'float32', shape: [1, 2] } },
    parts: [{ name: tensor, tensor, tensorShape: [1, 2], transpose: false, ...place }],
    shard: 'none',
  };
}

it.each([
  [448, 1],
  [44.8, 0.1],
  // What was 0 in all of the text must not make a scale that nothing can be divided by.
  [0, 1],
])('inputs of magnitudes up to %d have the static scale %d', (range, scale) => {
  const codes = new CodeTensors();
  codes.add(
    weightOf('a.weight'),
    FORMATS,
    { codes: Float32Array.of(1, 2), scales: Float32Array.of(3) },
    range,
  );
  const views = new Map([...codes.tensors()].map(([name, , view]) => [name, view]));
  expect([...decodeTensor(views.get('a.weight')!)]).toEqual([1, 2]);
  expect([...decodeTensor(views.get('a.weight_scale')!)]).toEqual([3]);
  expect(decodeTensor(views.get('a.input_scale')!)[0]).toBeCloseTo(scale, 6);
});
