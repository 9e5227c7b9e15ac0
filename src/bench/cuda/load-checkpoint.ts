// A process of its own: loads a checkpoint of a preset onto the GPU, says how long that took.
//   node dist/bench/cuda/load-checkpoint.js DIRECTORY PRESET DTYPE
import { openCheckpoint } from '../../checkpoint/checkpoint.ts';
import { compileToFit } from '../../compiler/compile-to-fit.ts';
import { CudaDevice } from '../../device/cuda/cuda-device.ts';
import { CUDA_KERNELS } from '../../kernels/cuda/index.ts';
import { findModel } from '../../models/registry.ts';
import type { FloatDType } from '../../tensor/dtype.ts';
import { planSettings, SMALL_LIMITS } from './model.ts';

export interface LoadTimes {
  readonly bytes: number;
  /** From the call until all weights were read. */
  readonly weightSeconds: number;
  readonly loadSeconds: number;
}

const [, , directory = '', preset = '', dtype = ''] = process.argv;
const device = await CudaDevice.open();
const { config, tensors, hash, source } = await openCheckpoint(directory);
const model = { definition: findModel(config), config, tensors, checkpointHash: hash };
const choice = { preset, dtype: dtype as FloatDType, quantization: null, kvCacheDType: 'auto' } as const;
const settings = planSettings(choice, SMALL_LIMITS);
const { plan, ledger } = compileToFit(model, settings, device.target, CUDA_KERNELS, device.availableMemory());
const startMs = performance.now();
let weightsMs = startMs;
const executable = await device.load(plan, source, {
  numBlocks: ledger.numBlocks,
  onProgress: () => (weightsMs = performance.now()),
});
const times: LoadTimes = {
  bytes: executable.memory.weights,
  weightSeconds: (weightsMs - startMs) / 1000,
  loadSeconds: (performance.now() - startMs) / 1000,
};
process.stdout.write(`${JSON.stringify(times)}\n`);
source.close();
await executable.dispose();
await device.dispose();
