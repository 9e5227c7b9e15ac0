// Memory outside of JavaScript's heap: what its addresses are, and how its bytes become arrays.
import koffi from 'koffi';

/** An address in this process or on a device, or a handle. They stay below 2⁵³, so that a number holds them. */
export type Address = number;

/** Node 20 aborts the process on a view of more bytes than this. */
const MAX_VIEW_BYTES = 2 ** 32;

/** Native memory as an ArrayBuffer, which must not be touched once it is freed. Throws `RangeError` for one too long. */
export function nativeView(address: Address | bigint, bytes: number): ArrayBuffer {
  if (bytes < 0 || bytes > MAX_VIEW_BYTES) throw new RangeError(`no view has ${bytes} bytes`);
  return bytes === 0 ? new ArrayBuffer(0) : koffi.view(BigInt(address), bytes);
}
