// What a machine without a usable GPU is told.
import { describe, expect, it } from 'vitest';
import type { CudaDriver } from '../../ffi/cuda/driver.ts';
import { NeedletailError } from '../../util/errors.ts';
import { CudaDevice } from './cuda-device.ts';

// The driver reads it once, when it is first opened.
process.env['CUDA_VISIBLE_DEVICES'] = '';

describe('CudaDevice.open', () => {
  it('says that there is no driver, or no GPU that it sees', async () => {
    const opening = CudaDevice.open();
    await expect(opening).rejects.toThrow(NeedletailError);
    await expect(opening).rejects.toMatchObject({ code: 'unsupported_platform' });
    await expect(opening).rejects.toThrow(
      /no NVIDIA driver .*--device cpu|sees no GPU \(check CUDA_VISIBLE_DEVICES\)/,
    );
  });

  it('refuses a GPU that is too old, by its name', async () => {
    const gpu = { name: 'NVIDIA GeForce GTX 1080', computeCapability: 61 };
    const driver = { gpu: () => gpu } as unknown as CudaDriver;
    await expect(CudaDevice.open(driver)).rejects.toMatchObject({
      code: 'unsupported_platform',
      message:
        'NVIDIA GeForce GTX 1080 has compute capability 6.1; 8.0 (Ampere) or newer is needed. Use --device cpu',
    });
  });
});
