// Where temporaries lie in one arena, so that those alive at the same time never share a byte.

/** A temporary that is written at launch `firstUse` and read for the last time at launch `lastUse`. */
export interface Lifetime {
  readonly bytes: number;
  readonly firstUse: number;
  readonly lastUse: number;
}

export interface Placement {
  /** Byte offset of each buffer, in the order given; 64-byte aligned. */
  readonly offsets: readonly number[];
  readonly arenaBytes: number;
}

const ALIGNMENT = 64;

export function alignUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** Largest first, each at the lowest offset where no buffer of overlapping lifetime lies. */
export function placeBuffers(buffers: readonly Lifetime[]): Placement {
  const offsets = new Array<number>(buffers.length).fill(0);
  const order = buffers.map((_, i) => i).sort((a, b) => buffers[b].bytes - buffers[a].bytes || a - b);
  const placed: number[] = []; // by rising offset
  for (const index of order) {
    const rivals = placed.filter((other) => overlapInTime(buffers[index], buffers[other]));
    offsets[index] = firstGap(buffers[index].bytes, rivals, buffers, offsets);
    placed.push(index);
    placed.sort((a, b) => offsets[a] - offsets[b]);
  }
  const ends = buffers.map((buffer, i) => offsets[i] + alignUp(buffer.bytes));
  return { offsets, arenaBytes: Math.max(0, ...ends) };
}

function overlapInTime(a: Lifetime, b: Lifetime): boolean {
  return a.firstUse <= b.lastUse && b.firstUse <= a.lastUse;
}

function firstGap(
  bytes: number,
  rivals: readonly number[],
  buffers: readonly Lifetime[],
  offsets: readonly number[],
): number {
  let offset = 0;
  for (const rival of rivals) {
    if (offset + bytes <= offsets[rival]) break;
    offset = Math.max(offset, offsets[rival] + alignUp(buffers[rival].bytes));
  }
  return offset;
}
