// Copies memory beside the event loop, on a thread of libuv's pool: several at once are faster than any one thread.
import koffi from 'koffi';

const memcpy = koffi.load(null).func('void *memcpy(uintptr_t target, const void *source, size_t bytes)');

/** `target`: an address with room for all of `source`. The caller holds on to both until it resolves. */
export function copyMemory(target: number, source: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    memcpy.async(target, source, source.byteLength, (error: Error | null) =>
      error ? reject(error) : resolve(),
    );
  });
}
