// How fast a checkpoint comes from the page cache onto the device, beside what the bus carries from page-locked memory. Processes of
// their own load it: the one that wrote it has much to tidy up.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { dummySource } from '../../checkpoint/dummy.ts';
import { writeSafetensors, type TensorToWrite } from '../../checkpoint/safetensors.ts';
import { expectedTensors } from '../../compiler/expected-tensors.ts';
import type { Plan } from '../../compiler/plan.ts';
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import type { HFConfig } from '../../models/model-definition.ts';
import type { FloatDType } from '../../tensor/dtype.ts';
import { median } from '../metrics.ts';
import { plainFigure, type Figure } from './figure.ts';
import type { LoadTimes } from './load-checkpoint.ts';
import { compilePreset, presetSubject, SMALL_LIMITS, type ModelChoice } from './model.ts';
import type { Roofs } from './roofs.ts';
import { runProgram } from './run-program.ts';

const SHARD_BYTES = 10 ** 9;
const NUM_RUNS = 3;
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
    const { config } = (await presetSubject(choice)).model;
    const { plan } = await compilePreset(device, choice, SMALL_LIMITS);
    await writeCheckpoint(directory, plan, config, choice.dtype);
    const runs: LoadTimes[] = [];
    for (let i = 0; i < NUM_RUNS; i++)
      runs.push(
        (await runProgram('load-checkpoint.js', [directory, choice.preset, choice.dtype]))
          .result as LoadTimes,
      );
    const rates = runs.map(({ bytes, weightSeconds }) => bytes / weightSeconds);
    const gb = (value: number): string => (value / 1e9).toFixed(1);
    const what =
      `of the bus: ${gb(runs[0].bytes)} GB of safetensors at ${rates.map(gb).join(', ')} GB/s, ` +
      `the bus ${gb(pinnedBytesPerSecond)}`;
    return plainFigure(name, what, (100 * median(rates)) / pinnedBytesPerSecond, '%', { runs });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

async function writeCheckpoint(
  directory: string,
  plan: Plan,
  config: HFConfig,
  dtype: FloatDType,
): Promise<void> {
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
  writeFileSync(path.join(directory, 'config.json'), JSON.stringify(config));
}
