import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import type { KVCacheSpec } from '../../ir/graph.ts';
import { PagedKVCache } from '../../ir/paged-kv-cache.ts';
import { rotate } from '../../ir/ops/rope.ts';
import { decodeTensor } from '../../tensor/codes.ts';
import { decodeFloats, itemSize, type KVCacheDType } from '../../tensor/dtype.ts';
import { checkLaunch, expectClose, randomValues } from '../../../test/support/check-launch.ts';
import { CpuHarness, matrix, type HarnessOperand } from '../../../test/support/cpu-harness.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';

const NUM_BLOCKS = 6;

/** Nine tokens of one sequence and three of another, whose blocks are scattered. */
function ragged(blockSize: number) {
  const tokens = (count: number) => new Array<number>(count).fill(0);
  const chunks = [
    {
      tokenIds: tokens(9),
      numCached: 4,
      blocks: [5, 2, 0, 1].slice(0, Math.ceil(13 / blockSize)),
      logitRows: [],
    },
    { tokenIds: tokens(3), numCached: 0, blocks: [3], logitRows: [] },
  ];
  return stepBatch(chunks, blockSize);
}

function parameters(rotaryDim: number, interleaved: boolean) {
  const inverseFrequencies = Array.from({ length: rotaryDim / 2 }, (_, i) => 100 ** ((-2 * i) / rotaryDim));
  return { rotaryDim, interleaved, inverseFrequencies, attentionFactor: 1.25 };
}

function tableOf({
  rotaryDim,
  inverseFrequencies,
  attentionFactor,
}: ReturnType<typeof parameters>): HarnessOperand {
  const values = new Float32Array(32 * rotaryDim);
  for (let position = 0; position < 32; position++) {
    inverseFrequencies.forEach((frequency, i) => {
      const at = position * rotaryDim + i;
      values[at] = Math.cos(position * frequency) * attentionFactor;
      values[at + rotaryDim / 2] = Math.sin(position * frequency) * attentionFactor;
    });
  }
  return { kind: 'ropeTable', values, rotaryDim };
}

/** A cache's content as the interpreter orders it, from the layout that native/program.h documents. */
function decodeCache(bytes: Uint8Array, spec: KVCacheSpec, blockSize: number) {
  const { numKvHeads, keyHeadDim, valueHeadDim } = spec;
  const numSlots = NUM_BLOCKS * blockSize;
  const keys = new Float32Array(numSlots * numKvHeads * keyHeadDim);
  const values = new Float32Array(numSlots * numKvHeads * valueHeadDim);
  const headBytes = bytes.length / (NUM_BLOCKS * numKvHeads);
  for (let slot = 0; slot < numSlots; slot++) {
    for (let head = 0; head < numKvHeads; head++) {
      const offset = slot % blockSize;
      const start = (Math.floor(slot / blockSize) * numKvHeads + head) * headBytes;
      const block = decodeBlock(bytes.slice(start, start + headBytes), spec, blockSize);
      for (let d = 0; d < keyHeadDim; d++) {
        keys[(slot * numKvHeads + head) * keyHeadDim + d] =
          block.elements[d * blockSize + offset] * block.scales[offset];
      }
      for (let d = 0; d < valueHeadDim; d++) {
        const at = keyHeadDim * blockSize + offset * valueHeadDim + d;
        values[(slot * numKvHeads + head) * valueHeadDim + d] =
          block.elements[at] * block.scales[blockSize + offset];
      }
    }
  }
  return { keys, values };
}

/** One head's part of a block: keys, then values, and the scales of each token's key, then value. */
function decodeBlock(bytes: Uint8Array, { keyHeadDim, valueHeadDim, dtype }: KVCacheSpec, blockSize: number) {
  const size = blockSize * (keyHeadDim + valueHeadDim) * itemSize(dtype);
  const elements = decodeTensor({ dtype, shape: [], bytes: bytes.subarray(0, size) });
  const scales =
    dtype === 'int8' ? decodeFloats('float16', bytes.slice(size)) : new Float32Array(2 * blockSize).fill(1);
  return { elements, scales };
}

/** Slots that were written hold the interpreter's numbers; all others are as they were. */
function expectCache(
  bytes: Uint8Array,
  expected: PagedKVCache,
  spec: KVCacheSpec,
  blockSize: number,
  slots: Int32Array,
) {
  const actual = decodeCache(bytes, spec, blockSize);
  for (const part of ['keys', 'values'] as const) {
    const size = actual[part].length / (NUM_BLOCKS * blockSize);
    for (let slot = 0; slot < NUM_BLOCKS * blockSize; slot++) {
      const row = actual[part].subarray(slot * size, (slot + 1) * size);
      if (slots.includes(slot))
        expectClose(row, expected[part].subarray(slot * size, (slot + 1) * size), 4e-3);
      else expect(row.every(Number.isNaN)).toBe(true);
    }
  }
}

describe.each(CpuLibrary.available())('%s', (arch) => {
  let harness: CpuHarness;
  beforeAll(() => {
    harness = new CpuHarness(arch);
  });
  afterAll(() => harness.close());

  it.each([
    [64, 64, false],
    [64, 64, true],
    [80, 32, false],
    [20, 20, false],
    [6, 2, true],
  ])('rope: head of %i, %i turned, interleaved %s', async (headDim, rotaryDim, interleaved) => {
    const session = harness.session([], NUM_BLOCKS);
    const step = ragged(16);
    const x = matrix(12, 3 * headDim, randomValues(12 * 3 * headDim, 1), { columnStart: 5 });
    const rope = parameters(rotaryDim, interleaved);
    const inputs = [x, { kind: 'input', name: 'positions' } as const, tableOf(rope)];
    for (const y of [matrix(12, 3 * headDim), { ...x, aliasOf: x }]) {
      await checkLaunch(session, { op: 'rope', attributes: { headDim, rope }, inputs, outputs: [y] }, step);
    }
    session.free();
  });

  it('refuses positions beyond the table', async () => {
    const session = harness.session([], NUM_BLOCKS);
    const rope = parameters(4, false);
    const inputs = [
      matrix(12, 4, randomValues(48, 1)),
      { kind: 'input', name: 'positions' } as const,
      tableOf(rope),
    ];
    const launch = { op: 'rope', attributes: { headDim: 4, rope }, inputs, outputs: [matrix(12, 4)] };
    const step = { ...ragged(16), positions: new Int32Array(12).fill(32) };
    await expect(session.run([launch], step)).rejects.toThrow('positions[0] is 32');
    session.free();
  });

  const geometries: readonly (readonly [KVCacheDType, number, number, number])[] = [
    ['float32', 16, 8, 8],
    ['bfloat16', 16, 64, 64],
    ['float16', 4, 10, 6],
    ['bfloat16', 5, 12, 20],
    ['int8', 16, 64, 64],
    ['int8', 5, 10, 18],
    ['float8_e4m3fn', 16, 64, 64],
    ['float8_e4m3fn', 5, 12, 20],
  ];

  it.each(geometries)(
    'kvWrite into a %s cache, blocks of %i, heads of %i and %i',
    async (dtype, blockSize, keyHeadDim, valueHeadDim) => {
      const spec = { layer: 3, numKvHeads: 2, keyHeadDim, valueHeadDim, window: null, dtype };
      const session = harness.session([spec], NUM_BLOCKS, blockSize);
      const step = ragged(blockSize);
      const { slotMapping } = step.groups[0];
      const k = matrix(12, 2 * keyHeadDim, randomValues(24 * keyHeadDim, 1), { columnStart: 7 });
      const v = matrix(12, 2 * valueHeadDim, randomValues(24 * valueHeadDim, 2), {
        rowStride: 2 * valueHeadDim + 9,
      });
      const inputs = [k, v, { kind: 'input', name: 'slotMapping' } as const];
      const outputs = [{ kind: 'kvCache', layer: 3 } as const];
      await session.run([{ op: 'kvWrite', attributes: { layer: 3 }, inputs, outputs }], step);
      const expected = new PagedKVCache(spec, blockSize, NUM_BLOCKS);
      expected.write(k.values as Float32Array, v.values as Float32Array, slotMapping);
      expectCache(session.cacheBytes(3), expected, spec, blockSize, slotMapping);
      session.free();
    },
  );

  it.each(geometries)(
    'ropeKvWrite into a %s cache, blocks of %i, heads of %i and %i',
    async (dtype, blockSize, headDim, valueHeadDim) => {
      const spec = { layer: 0, numKvHeads: 2, keyHeadDim: headDim, valueHeadDim, window: null, dtype };
      const session = harness.session([spec], NUM_BLOCKS, blockSize);
      const step = ragged(blockSize);
      const { slotMapping } = step.groups[0];
      const rope = parameters(headDim - 2, false);
      const q = matrix(12, 6 * headDim, randomValues(72 * headDim, 1), { rowStride: 11 * headDim });
      const k = matrix(12, 2 * headDim, randomValues(24 * headDim, 2));
      const v = matrix(12, 2 * valueHeadDim, randomValues(24 * valueHeadDim, 3));
      const arrays = [
        { kind: 'input', name: 'positions' } as const,
        { kind: 'input', name: 'slotMapping' } as const,
      ];
      const attributes = { layer: 0, numHeads: 6, numKvHeads: 2, headDim, valueHeadDim, rope };
      const outputs = [{ ...q, aliasOf: q }, { kind: 'kvCache', layer: 0 } as const];
      const launch = { op: 'ropeKvWrite', attributes, inputs: [q, k, v, ...arrays, tableOf(rope)], outputs };
      const [turned] = await session.run([launch], step);
      const host = (m: typeof q) => ({ shape: [m.rows, m.columns], data: m.values! });
      expectClose(turned, rotate(host(q), step.positions, headDim, rope).data, 1e-6);
      const expected = new PagedKVCache(spec, blockSize, NUM_BLOCKS);
      const keys = rotate(host(k), step.positions, headDim, rope).data as Float32Array;
      expected.write(keys, v.values as Float32Array, slotMapping);
      expectCache(session.cacheBytes(0), expected, spec, blockSize, slotMapping);
      session.free();
    },
  );

  it('refuses slots outside of the cache', async () => {
    const spec = {
      layer: 0,
      numKvHeads: 1,
      keyHeadDim: 4,
      valueHeadDim: 4,
      window: null,
      dtype: 'float32',
    } as const;
    const session = harness.session([spec], NUM_BLOCKS, 16);
    const step = ragged(16);
    step.groups[0].slotMapping[5] = NUM_BLOCKS * 16;
    const k = matrix(12, 4, randomValues(48, 1));
    const inputs = [k, k, { kind: 'input', name: 'slotMapping' } as const];
    const launch = {
      op: 'kvWrite',
      attributes: { layer: 0 },
      inputs,
      outputs: [{ kind: 'kvCache', layer: 0 } as const],
    };
    await expect(session.run([launch], step)).rejects.toThrow('slotMapping[5] is 96');
    session.free();
  });
});
