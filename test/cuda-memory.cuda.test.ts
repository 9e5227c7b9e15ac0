// What the GPU holds of a loaded model, against the ledger: to the byte, and with 8-bit numbers half of what 16 bits take.
import { expect, it } from 'vitest';
import { dummySource } from '../src/checkpoint/dummy.ts';
import { compile } from '../src/compiler/compile.ts';
import { expectedTensors } from '../src/compiler/expected-tensors.ts';
import { memoryLedger, type Ledger } from '../src/compiler/ledger.ts';
import type { Plan, Target } from '../src/compiler/plan.ts';
import { quantizationRules } from '../src/compiler/quantization-rules.ts';
import type { CudaDevice } from '../src/device/cuda/cuda-device.ts';
import { CUDA_KERNELS } from '../src/kernels/cuda/index.ts';
import type { KVCacheDType } from '../src/tensor/dtype.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../src/tensor/precision.ts';
import { compileRequest } from './support/compile.ts';
import { describeCudaDevice } from './support/cuda.ts';

const HEAD_DIM = 64;
const MAX_MODEL_LEN = 1024;
/** So that the layers' products are nearly all of it. */
const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  vocab_size: 96,
  hidden_size: 512,
  intermediate_size: 2048,
  num_hidden_layers: 2,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  max_position_embeddings: MAX_MODEL_LEN,
};
/** Runtime's own: pinned places, the arrays of launches. */
const MAX_BESIDE_BYTES = 2 ** 20;

function planOf(target: Target, quantization: Quantization | null, kvDType: KVCacheDType): Plan {
  const rules = quantization && quantizationRules(quantization, null, DEFAULT_QUANTIZATION_KEEP);
  return compile(
    compileRequest(CONFIG, {
      target,
      recipe: { weightDType: 'bfloat16', quantization: rules, kvDType, activationPrecision: 'auto' },
      limits: { maxNumBatchedTokens: 128, maxNumSeqs: 4, maxNumLogitRows: 8 },
      blockSize: 16,
      maxModelLen: MAX_MODEL_LEN,
      kernels: CUDA_KERNELS,
    }),
  );
}

/** Of 64 sequences, whatever they take. */
function ledgerOf(plan: Plan): Ledger {
  return memoryLedger(plan, {
    availableBytes: 2 ** 40,
    kvCacheMemoryBytes: 2 ** 39,
    memoryUtilization: 1,
    maxNumSeqs: 64,
    maxModelLen: MAX_MODEL_LEN,
  });
}

/** The ledger, once it was found right. */
async function checkedLedger(device: CudaDevice, plan: Plan): Promise<Ledger> {
  const ledger = ledgerOf(plan);
  const { driver } = device.runtime;
  const { heldBytes } = driver;
  const source = dummySource(expectedTensors(plan, 'bfloat16'), 1);
  const executable = await device.load(plan, source, { numBlocks: ledger.numBlocks });
  expect(executable.memory.weights).toBe(ledger.weightBytes + ledger.ropeTableBytes);
  expect(executable.memory.kvCache).toBe(ledger.kvCacheBytes);
  const lines = Object.values(executable.memory) as number[];
  expect(lines.reduce((sum, bytes) => sum + bytes)).toBe(ledger.totalBytes);
  const takenBytes = driver.heldBytes - heldBytes;
  expect(takenBytes).toBeGreaterThanOrEqual(ledger.totalBytes);
  expect(takenBytes - ledger.totalBytes, 'beside the ledger').toBeLessThan(MAX_BESIDE_BYTES);
  await executable.dispose();
  expect(driver.heldBytes).toBe(heldBytes);
  return ledger;
}

describeCudaDevice('memory', (device) => {
  it.each([
    ['bfloat16', 2],
    ['float8_e4m3fn', 1],
    ['int8', 1 + 2 / HEAD_DIM],
  ] as const)('is what the ledger says, with a KV cache of %s', async (kvDType, numberBytes) => {
    const ledger = await checkedLedger(device(), planOf(device().target, null, kvDType));
    const { num_hidden_layers: numLayers, num_key_value_heads: numKvHeads } = CONFIG;
    const bytesPerToken = numLayers * numKvHeads * 2 * HEAD_DIM * numberBytes;
    expect(ledger.caches[0].bytesPerToken).toBe(bytesPerToken);
    expect(ledger.kvCacheBytes).toBe(bytesPerToken * ledger.numCacheTokens);
  });

  it.each([
    ['fp8', 'float8_e4m3fn'],
    ['int8', 'int8'],
    ['smoothquant', 'float8_e4m3fn'],
  ] as const)(
    "with weights of %s and a KV cache of %s is half of 16 bits'",
    async (quantization, kvDType) => {
      const { target } = device();
      const [eight, sixteen] = [
        await checkedLedger(device(), planOf(target, quantization, kvDType)),
        await checkedLedger(device(), planOf(target, null, 'bfloat16')),
      ];
      expect(eight.numBlocks).toEqual(sixteen.numBlocks);
      for (const bytes of ['weightBytes', 'kvCacheBytes'] as const) {
        expect(eight[bytes] / sixteen[bytes]).toBeGreaterThanOrEqual(0.5);
        // Scales, and what stays 16 bits wide.
        expect(eight[bytes] / sixteen[bytes]).toBeLessThan(0.52);
      }
    },
  );
});
