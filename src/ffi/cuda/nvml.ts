// NVML, for people who ask what is in their machine: the driver's own version. Optional, for nothing else needs it.
import { tryLoad } from './find-library.ts';

/** `580.159.04`, or null where NVML is missing. */
export function driverVersion(): string | null {
  const library = tryLoad('libnvidia-ml.so.1');
  if (!library) return null;
  const init = library.func('int nvmlInit_v2()') as () => number;
  const shutdown = library.func('int nvmlShutdown()') as () => number;
  const read = library.func('int nvmlSystemGetDriverVersion(void *text, unsigned int length)') as (
    text: Buffer,
    length: number,
  ) => number;
  if (init() !== 0) return null;
  const text = Buffer.alloc(80);
  const status = read(text, text.length);
  shutdown();
  return status === 0 ? text.toString('utf8', 0, text.indexOf(0)) : null;
}
