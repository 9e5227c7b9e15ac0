// Device memory read and written whole, and numbers as it holds them; for tests.
import type { CudaRuntime } from '../../src/device/cuda/cuda-runtime.ts';
import { DeviceMemoryPool } from '../../src/device/cuda/device-memory.ts';
import { decodeTensor, encodeCodes } from '../../src/tensor/codes.ts';
import { encodeFloats, isCodeDType, type DType, type FloatDType } from '../../src/tensor/dtype.ts';

export function writeDevice(runtime: CudaRuntime, target: number, bytes: Uint8Array): void {
  writeDevicePlaces(runtime, [{ address: target, bytes }]);
}

/** To several places, waited for once. */
export function writeDevicePlaces(
  runtime: CudaRuntime,
  places: readonly { readonly address: number; readonly bytes: Uint8Array }[],
): void {
  const { starts, total } = layOut(places.map(({ bytes }) => bytes.byteLength));
  transfer(runtime, total, (staging) => {
    places.forEach(({ address, bytes }, i) => {
      staging.bytes.set(bytes, starts[i]);
      runtime.driver.copyToDevice(address, staging.address + starts[i], bytes.byteLength, runtime.stream);
    });
  });
}

export function readDevice(runtime: CudaRuntime, source: number, numBytes: number): Uint8Array {
  return readDevicePlaces(runtime, [{ address: source, numBytes }])[0];
}

export interface DevicePlace {
  readonly address: number;
  readonly numBytes: number;
}

/** The bytes of several places, waited for once. */
export function readDevicePlaces(runtime: CudaRuntime, places: readonly DevicePlace[]): Uint8Array[] {
  const { starts, total } = layOut(places.map(({ numBytes }) => numBytes));
  const bytes = transfer(runtime, total, (staging) => {
    places.forEach(({ address, numBytes }, i) =>
      runtime.driver.copyToHost(staging.address + starts[i], address, numBytes, runtime.stream),
    );
  });
  return places.map(({ numBytes }, i) => bytes.slice(starts[i], starts[i] + numBytes));
}

/** One piece after the other. */
function layOut(sizes: readonly number[]): { starts: readonly number[]; total: number } {
  let total = 0;
  const starts = sizes.map((size) => (total += size) - size);
  return { starts, total };
}

function transfer(
  runtime: CudaRuntime,
  numBytes: number,
  copy: (staging: ReturnType<DeviceMemoryPool['allocatePinned']>) => void,
): Uint8Array {
  const pool = new DeviceMemoryPool(runtime);
  try {
    const staging = pool.allocatePinned(numBytes);
    copy(staging);
    runtime.driver.synchronize(runtime.stream);
    return staging.bytes.slice(0, numBytes);
  } finally {
    pool.freeAll();
  }
}

export function encode(dtype: DType, values: Float32Array | Int32Array): Uint8Array {
  if (dtype === 'int32') return new Uint8Array(values.slice().buffer);
  const floats = values as Float32Array;
  return isCodeDType(dtype) ? encodeCodes(dtype, floats) : encodeFloats(dtype as FloatDType, floats);
}

/** The inverse of `encode`. */
export function decode(dtype: DType, bytes: Uint8Array): Float32Array {
  if (dtype !== 'int32') return decodeTensor({ dtype, shape: [], bytes });
  return Float32Array.from(new Int32Array(bytes.slice().buffer));
}
