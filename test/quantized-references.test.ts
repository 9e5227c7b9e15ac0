// Every recipe of smaller numbers with every type of KV cache on reference checkpoints, on the devices that need no GPU.
import { afterAll, beforeAll, describe } from 'vitest';
import type { Plan } from '../src/compiler/plan.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import type { Device } from '../src/device/device.ts';
import { ReferenceDevice } from '../src/device/reference/reference-device.ts';
import type { StepBatch } from '../src/device/step.ts';
import { CpuLibrary } from '../src/ffi/cpu-library.ts';
import { CPU_KERNELS } from '../src/kernels/cpu/index.ts';
import { REFERENCE_KERNELS } from '../src/kernels/reference.ts';
import type { TensorSource } from '../src/tensor/tensor-source.ts';
import { describeQuantizedReferences } from './support/quantized-references.ts';

async function runOn(
  device: Device,
  plan: Plan,
  source: TensorSource,
  numBlocks: readonly number[],
  step: StepBatch,
): Promise<Float32Array> {
  const executable = await device.load(plan, source, { numBlocks });
  const { logits } = await executable.run(step);
  await executable.dispose();
  return logits!;
}

const reference = new ReferenceDevice();

describeQuantizedReferences(
  'reference device',
  { target: reference.target, kernels: REFERENCE_KERNELS },
  (...run) => runOn(reference, ...run),
);

describe.each(CpuLibrary.available())('%s', (arch) => {
  let device: CpuDevice;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 2, arch });
  });
  afterAll(() => device.dispose());

  describeQuantizedReferences(
    'cpu device',
    { target: { kind: 'cpu', arch }, kernels: CPU_KERNELS },
    (...run) => runOn(device, ...run),
  );
});
