// How fast a checkpoint comes from the page cache onto the device, beside what the bus carries from page-locked memory.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { openCheckpoint } from '../../checkpoint/checkpoint.ts';
import { dummySource } from '../../checkpoint/dummy.ts';
import { writeSafetensors, type TensorToWrite } from '../../checkpoint/safetensors.ts';
import { compileToFit } from '../../compiler/compile-to-fit.ts';
import { expectedTensors } from '../../compiler/expected-tensors.ts';
import type { Plan } from '../../compiler/plan.ts';
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import { CUDA_KERNELS } from '../../kernels/cuda/index.ts';
import { findModel } from '../../models/registry.ts';
import type { FloatDType } from '../../tensor/dtype.ts';
import { plainFigure, type Figure } from './figure.ts';
import { compilePreset, planSettings, presetConfig, type ModelChoice } from './model.ts';
import type { Roofs } from './roofs.ts';

const SHARD_BYTES = 10 ** 9;
const SMALL_STEPS = { maxNumSeqs: 1, maxNumBatchedTokens: 16, maxModelLen: 16 };
const DTYPE_NAMES: Readonly<Record<FloatDType, string>> = {
  float32: 'F32',
  bfloat16: 'BF16',
  float16: 'F16',
};

export async function measureLoading(
  device: CudaDevice,
  choice: ModelChoice,
  name: string,
  { pinnedBytesPerSecond }: Roofs,
): Promise<Figure> {
  const directory = mkdtempSync(path.join(tmpdir(), 'needletail-checkpoint-'));
  try {
    await writeCheckpoint(directory, compilePreset(device, choice, SMALL_STEPS).plan, choice);
    const { bytes, weightSeconds, loadSeconds } = await load(device, directory, choice);
    const rate = bytes / weightSeconds;
    const gb = (value: number): string => (value / 1e9).toFixed(1);
    const what = `of the bus: ${gb(bytes)} GB of safetensors at ${gb(rate)} GB/s, the bus ${gb(pinnedBytesPerSecond)}`;
    const detail = { bytes, weightSeconds, loadSeconds };
    return plainFigure(name, what, (100 * rate) / pinnedBytesPerSecond, '%', detail);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function writeCheckpoint(directory: string, plan: Plan, { preset, dtype }: ModelChoice): Promise<void> {
  const catalog = expectedTensors(plan, dtype);
  const source = dummySource(catalog, 0);
  const weightMap: Record<string, string> = {};
  let shard = new Map<string, TensorToWrite>();
  let shardBytes = 0;
  let numShards = 0;
  const flush = async (): Promise<void> => {
    const file = `model-${++numShards}.safetensors`;
    for (const tensor of shard.keys()) weightMap[tensor] = file;
    await writeSafetensors(path.join(directory, file), shard);
    shard = new Map();
    shardBytes = 0;
  };
  for (const [tensor, { shape }] of catalog) {
    const { bytes } = source.read(tensor);
    // Kept until the shard is written.
    shard.set(tensor, { dtype: DTYPE_NAMES[dtype], shape, bytes: bytes.slice() });
    shardBytes += bytes.length;
    if (shardBytes > SHARD_BYTES) await flush();
  }
  await flush();
  const index = { metadata: {}, weight_map: weightMap };
  writeFileSync(path.join(directory, 'model.safetensors.index.json'), JSON.stringify(index));
  writeFileSync(path.join(directory, 'config.json'), JSON.stringify(presetConfig(preset)));
}

async function load(
  device: CudaDevice,
  directory: string,
  choice: ModelChoice,
): Promise<{ bytes: number; weightSeconds: number; loadSeconds: number }> {
  const { config, tensors, hash, source } = await openCheckpoint(directory);
  const model = { definition: findModel(config), config, tensors, checkpointHash: hash };
  const settings = planSettings(choice, SMALL_STEPS);
  const { plan, ledger } = compileToFit(
    model,
    settings,
    device.target,
    CUDA_KERNELS,
    device.availableMemory(),
  );
  const startMs = performance.now();
  let weightsMs = startMs;
  const executable = await device.load(plan, source, {
    numBlocks: ledger.numBlocks,
    onProgress: () => (weightsMs = performance.now()),
  });
  const endMs = performance.now();
  source.close();
  const bytes = executable.memory.weights;
  await executable.dispose();
  return { bytes, weightSeconds: (weightsMs - startMs) / 1000, loadSeconds: (endMs - startMs) / 1000 };
}
