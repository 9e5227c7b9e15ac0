// Every recipe of smaller numbers with every type of KV cache on reference checkpoints, on the devices that need no GPU.
import { afterAll, beforeAll, describe } from 'vitest';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { ReferenceDevice } from '../src/device/reference/reference-device.ts';
import { CpuLibrary } from '../src/ffi/cpu-library.ts';
import { CPU_KERNELS } from '../src/kernels/cpu/index.ts';
import { REFERENCE_KERNELS } from '../src/kernels/reference.ts';
import { describeQuantizedReferences, runPlanOn } from './support/quantized-references.ts';

const reference = new ReferenceDevice();

describeQuantizedReferences(
  'reference device',
  { target: reference.target, kernels: REFERENCE_KERNELS },
  runPlanOn(() => reference),
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
    runPlanOn(() => device),
  );
});
