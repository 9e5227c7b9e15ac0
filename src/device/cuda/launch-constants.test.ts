// What launches keep on the device beside what the ledger counts: equal arrays once, and little of it for large models too.
import { describe, expect, it } from 'vitest';
import { quantizationRules } from '../../compiler/quantization-rules.ts';
import { findPreset } from '../../models/presets.ts';
import { DEFAULT_QUANTIZATION_KEEP } from '../../tensor/precision.ts';
import { constantBytes, cudaPlan, HOPPER } from '../../../test/support/cuda-launches.ts';
import { LaunchConstants } from './launch-constants.ts';

/** The executable refuses plans that take a MiB more than was counted; gaps that align weights are some of it. */
const MAX_BYTES = 2 ** 18;

describe('constants of launches', () => {
  it('lie on the device once', () => {
    const uploaded: number[][] = [];
    const constants = new LaunchConstants((bytes) =>
      uploaded.push([...new Float32Array(bytes.slice().buffer)]),
    );
    const places = [[0, 0], [0], [1, 2], [0, 0], [1, 2]].map((values) =>
      constants.place(Float32Array.from(values)),
    );
    expect(places).toEqual([1, 2, 3, 1, 3]);
    expect(uploaded).toEqual([[0, 0], [0], [1, 2]]);
  });

  it.each([
    ['llama-2-70b', 'fp8'],
    ['llama-2-70b', 'int8'],
    ['llama-2-7b', 'smoothquant'],
    ['llama-2-7b', null],
  ] as const)('of %s in %s are small', (name, recipe) => {
    const quantization = recipe && quantizationRules(recipe, null, DEFAULT_QUANTIZATION_KEEP);
    const plan = cudaPlan(findPreset(name)!.config, 'bfloat16', HOPPER, { quantization });
    const bytes = constantBytes(plan, HOPPER);
    expect(bytes).toBeGreaterThan(0);
    expect(bytes).toBeLessThan(MAX_BYTES);
  });
});
