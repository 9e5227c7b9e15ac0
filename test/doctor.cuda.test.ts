// The self-test of `needletail doctor`: it covers what plans launch, and finds it right on this GPU.
import { afterAll, beforeAll, expect, it } from 'vitest';
import { SELF_TEST_TOLERANCE, SELF_TESTS, selfTest } from '../src/cli/self-test.ts';
import { quantizationRules } from '../src/compiler/quantization-rules.ts';
import type { QuantizationRules } from '../src/compiler/request.ts';
import { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import type { HFConfig } from '../src/models/model-definition.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../src/tensor/precision.ts';
import { describeCuda } from './support/cuda.ts';
import { cudaPlan } from './support/cuda-launches.ts';
import { loadReference, REFERENCE_NAMES } from './support/reference-checkpoint.ts';

describeCuda('the self-test', () => {
  let device: CudaDevice;
  beforeAll(async () => {
    device = await CudaDevice.open();
  });
  afterAll(() => device.dispose());

  it.each(SELF_TESTS)('finds every kernel right in $name', async (test) => {
    const checks = await selfTest(device, test);
    const wrong = checks.filter(({ error }) => !(error <= SELF_TEST_TOLERANCE[test.dtype]));
    expect(wrong).toEqual([]);
  });

  it('launches every op that plans of any family and recipe launch', () => {
    const { gpu } = device.runtime;
    const references = REFERENCE_NAMES.map((name) => loadReference(name).config);
    const opsOf = (configs: readonly HFConfig[], quantization: QuantizationRules | null): Set<string> =>
      new Set(
        configs.flatMap((config) =>
          cudaPlan(config, 'bfloat16', gpu, { quantization }).launches.map(({ op }) => op),
        ),
      );
    const tested = new Set(
      SELF_TESTS.flatMap(({ models, quantization }) => [...opsOf(models, rulesOf(quantization))]),
    );
    const launched = SELF_TESTS.flatMap(({ quantization }) => [...opsOf(references, rulesOf(quantization))]);
    expect(launched.filter((op) => !tested.has(op))).toEqual([]);
  });
});

/** In groups that divide the columns of the smallest weights. */
function rulesOf(quantization: Quantization | null): QuantizationRules | null {
  if (quantization === null) return null;
  const groupSize = quantization === 'int4' ? 32 : null;
  return quantizationRules(quantization, groupSize, DEFAULT_QUANTIZATION_KEEP);
}
