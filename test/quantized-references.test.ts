// Every recipe of smaller numbers with every type of KV cache on reference checkpoints, on the devices that need no GPU.
import { afterAll, beforeAll, describe } from 'vitest';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { ReferenceDevice } from '../src/device/reference/reference-device.ts';
import { CpuLibrary } from '../src/ffi/cpu-library.ts';
import {
  CALIBRATED_RECIPES,
  describeQuantizedReferences,
  KV_TYPES,
  ROUNDED_RECIPES,
} from './support/quantized-references.ts';

const reference = new ReferenceDevice();

describeQuantizedReferences('reference device', {
  recipes: ROUNDED_RECIPES,
  kvTypes: KV_TYPES,
  device: () => reference,
  maxRoundingError: 0,
});

describe.each(CpuLibrary.available())('%s', (arch) => {
  let device: CpuDevice;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 2, arch });
  });
  afterAll(() => device.dispose());

  describeQuantizedReferences('cpu device', {
    recipes: [...ROUNDED_RECIPES, ...CALIBRATED_RECIPES],
    kvTypes: KV_TYPES,
    device: () => device,
    maxRoundingError: 0,
  });
});
