// Which device `auto` opens, and what is told of a GPU that it does not.
import { once } from 'node:events';
import { expect, it, vi } from 'vitest';
import type { CudaDriver } from '../ffi/cuda/driver.ts';
import { NeedletailError } from '../util/errors.ts';
import { createDevice } from './create-device.ts';

const OPTIONS = { numThreads: 1 };

it('takes the cpu with a warning where a GPU is of no use', async () => {
  const gpu = { name: 'NVIDIA GeForce GTX 1080', computeCapability: 61 };
  const driver = { gpu: () => gpu } as unknown as CudaDriver;
  const warned = once(process, 'warning');
  const device = await createDevice('auto', OPTIONS, () => driver);
  expect(device.target.kind).toBe('cpu');
  await device.dispose();
  const [warning] = (await warned) as [Error];
  expect(warning.name).toBe('NeedletailWarning');
  expect(warning.message).toMatch(/^the GPU is not used: NVIDIA GeForce GTX 1080 has compute capability 6.1/);
  await expect(createDevice('cuda', OPTIONS, () => driver)).rejects.toThrow('compute capability 6.1');
});

it('takes the cpu in silence where there is no GPU', async () => {
  const warn = vi.spyOn(process, 'emitWarning');
  const device = await createDevice('auto', OPTIONS, () => {
    throw new NeedletailError('unsupported_platform', 'there is no NVIDIA driver');
  });
  expect(device.target.kind).toBe('cpu');
  await device.dispose();
  expect(warn).not.toHaveBeenCalled();
  warn.mockRestore();
});
