// Looks at this machine: which devices needletail can use, and what is missing for the others.
import { CudaDevice } from '../device/cuda/cuda-device.ts';
import { defaultCacheDirectory, inspectCache } from '../device/cuda/kernel-cache.ts';
import { CublasLt } from '../ffi/cuda/cublaslt.ts';
import { CudaDriver } from '../ffi/cuda/driver.ts';
import { driverVersion } from '../ffi/cuda/nvml.ts';
import { Nvrtc } from '../ffi/cuda/nvrtc.ts';
import { CpuLibrary } from '../ffi/cpu-library.ts';
import { isNeedletailError } from '../util/errors.ts';
import { formatBytes } from '../util/format-bytes.ts';
import { VERSION } from '../util/version.ts';
import { SELF_TESTS, selfTest, type SelfTest } from './self-test.ts';

export async function runDoctor(): Promise<void> {
  line('needletail', `${VERSION}, Node.js ${process.version}, ${process.platform}-${process.arch}`);
  line('cpu', CpuLibrary.available().join(', ') || 'no library fits this processor: run npm run build');
  const driver = attempt('NVIDIA driver', () => CudaDriver.load());
  if (driver) await describeCuda(driver);
}

async function describeCuda(driver: CudaDriver): Promise<void> {
  line('NVIDIA driver', `${driverVersion() ?? 'version unknown'}, CUDA ${versionText(driver.version)}`);
  for (let ordinal = 0; ordinal < driver.numGpus(); ordinal++) describeGpu(driver, ordinal);
  const nvrtc = attempt('NVRTC', () => Nvrtc.load(driver.libraryMajors));
  if (nvrtc) line('NVRTC', `${nvrtc.version} (${nvrtc.path})`);
  const cublasLt = attempt('cuBLASLt', () => CublasLt.load(driver.libraryMajors));
  if (cublasLt) line('cuBLASLt', `${cublasLt.version} (${cublasLt.path})`);
  line('kernel cache', describeCache(defaultCacheDirectory()));
  if (nvrtc && cublasLt) await openDevice();
}

function describeGpu(driver: CudaDriver, ordinal: number): void {
  const { name, computeCapability, numMultiprocessors, totalBytes } = driver.gpu(ordinal);
  const capability = `compute capability ${(computeCapability / 10).toFixed(1)}`;
  line(
    `GPU ${ordinal}`,
    `${name}, ${capability}, ${numMultiprocessors} multiprocessors, ${formatBytes(totalBytes)}`,
  );
}

/** The same way that a model is loaded. */
async function openDevice(): Promise<void> {
  try {
    const device = await CudaDevice.open();
    line('cuda', `ready: ${device.description}, ${formatBytes(device.availableMemory())} free`);
    for (const test of SELF_TESTS) await testKernels(device, test);
    await device.dispose();
  } catch (error) {
    report('cuda', error);
  }
}

/** The first time this compiles some hundred kernels, which takes half a minute. A wrong result ends the program with 1. */
async function testKernels(device: CudaDevice, test: SelfTest): Promise<void> {
  const name = `${test.name} test`;
  const checks = await selfTest(device, test).catch((error: unknown) => report(name, error));
  if (!checks) return;
  const wrong = checks.filter(({ error }) => !(error <= test.tolerance));
  const kernels = new Set(checks.map(({ op, kernel }) => `${op} (${kernel})`));
  if (wrong.length === 0) return line(name, `${kernels.size} kernels compute what they should`);
  for (const { op, kernel, error } of wrong)
    line(name, `WRONG: ${op} (${kernel}) is off by ${error.toPrecision(2)} of its largest value`);
  process.exitCode = 1;
}

function describeCache(directory: string): string {
  const { numKernels, numDamaged, bytes } = inspectCache(directory);
  const damaged = numDamaged === 0 ? '' : `, ${numDamaged} damaged (made again when they are needed)`;
  return `${directory}: ${numKernels} kernels, ${formatBytes(bytes)}${damaged}`;
}

function attempt<T>(name: string, find: () => T): T | null {
  try {
    return find();
  } catch (error) {
    report(name, error);
    return null;
  }
}

function report(name: string, error: unknown): void {
  if (!isNeedletailError(error)) throw error;
  line(name, error.message);
}

/** 13000 → `13.0`. */
function versionText(version: number): string {
  return `${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
}

function line(name: string, text: string): void {
  console.log(`${name.padEnd(14)} ${text}`);
}
