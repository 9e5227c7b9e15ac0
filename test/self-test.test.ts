// What `needletail doctor` launches on a GPU, known without one.
import { expect, it } from 'vitest';
import { SELF_TESTS } from '../src/cli/self-test.ts';
import { quantizationRules } from '../src/compiler/quantization-rules.ts';
import type { QuantizationRules } from '../src/compiler/request.ts';
import type { HFConfig } from '../src/models/model-definition.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../src/tensor/precision.ts';
import { cudaPlan, HOPPER } from './support/cuda-launches.ts';
import { loadReference, REFERENCE_NAMES } from './support/reference-checkpoint.ts';

it('is every op that plans of any family and recipe launch', () => {
  const references = REFERENCE_NAMES.map((name) => loadReference(name).config);
  const opsOf = (configs: readonly HFConfig[], quantization: QuantizationRules | null): Set<string> =>
    new Set(
      configs.flatMap((config) =>
        cudaPlan(config, 'bfloat16', HOPPER, { quantization }).launches.map(({ op }) => op),
      ),
    );
  const tested = new Set(
    SELF_TESTS.flatMap(({ models, quantization }) => [...opsOf(models, rulesOf(quantization))]),
  );
  const launched = SELF_TESTS.flatMap(({ quantization }) => [...opsOf(references, rulesOf(quantization))]);
  expect(launched.filter((op) => !tested.has(op))).toEqual([]);
});

/** In groups that divide the columns of the smallest weights. */
function rulesOf(quantization: Quantization | null): QuantizationRules | null {
  if (quantization === null) return null;
  const groupSize = quantization === 'int4' ? 32 : null;
  return quantizationRules(quantization, groupSize, DEFAULT_QUANTIZATION_KEEP);
}
