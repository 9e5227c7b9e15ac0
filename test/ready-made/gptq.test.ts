// GPTQ's checkpoints in both versions of the format, written here bit by bit from the published layout.
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { compile } from '../../src/compiler/compile.ts';
import { CpuDevice } from '../../src/device/cpu/cpu-device.ts';
import { REFERENCE_KERNELS } from '../../src/kernels/reference.ts';
import { compileRequest } from '../support/compile.ts';
import {
  errorOf,
  f16,
  i32,
  loading,
  matrix,
  randomInts,
  randomScales,
  withReadyMade,
  type PublishLayer,
  type ReadyMade,
} from '../support/ready-made.ts';

interface Variant {
  /** Columns of a group lie anywhere, as desc_act leaves them. */
  readonly isOrdered?: boolean;
  readonly bits: 4 | 8;
  readonly sym: boolean;
  readonly version: 'gptq' | 'gptq_v2';
  readonly groupSize: number;
}

const V1: Variant = { bits: 4, sym: false, version: 'gptq', groupSize: 32 };

/** A word of numbers, the first in the lowest bits. */
function word(bits: number, number: (i: number) => number): number {
  return Array.from({ length: 32 / bits }, (_, i) => number(i) << (bits * i)).reduce((all, one) => all | one);
}

function publisher({ bits, sym, version, groupSize, isOrdered = false }: Variant): PublishLayer {
  return (rows, columns, random) => {
    const size = groupSize === -1 ? columns : groupSize;
    const [groups, perWord] = [columns / size, 32 / bits];
    const codes = randomInts(columns * rows, 2 ** bits, random); // [columns, rows]
    const zeros = sym
      ? Array<number>(groups * rows).fill(2 ** (bits - 1))
      : randomInts(groups * rows, 2 ** bits - 1, random).map((zero) => zero + 1); // [groups, rows]
    const scales = randomScales(groups * rows, 2 ** (bits - 1), random);
    // One order for all layers of as many columns; 5 and these have no common divisor.
    const groupOf = (column: number) => Math.floor((isOrdered ? (5 * column + 3) % columns : column) / size);
    const stored = version === 'gptq' ? zeros.map((zero) => zero - 1) : zeros;
    const weightWords = matrix(columns / perWord, rows, (w, row) =>
      word(bits, (i) => codes[(w * perWord + i) * rows + row]),
    );
    const zeroWords = matrix(groups, rows / perWord, (group, w) =>
      word(bits, (i) => stored[group * rows + w * perWord + i]),
    );
    return {
      tensors: {
        '.qweight': i32([columns / perWord, rows], weightWords),
        '.qzeros': i32([groups, rows / perWord], zeroWords),
        '.scales': f16([groups, rows], scales),
        '.g_idx': i32(
          [columns],
          Array.from({ length: columns }, (_, column) => groupOf(column)),
        ),
      },
      values: Float32Array.from(
        matrix(rows, columns, (row, column) => {
          const group = groupOf(column) * rows + row;
          return (codes[column * rows + row] - zeros[group]) * scales[group];
        }),
      ),
    };
  };
}

function checkpoint(variant: Variant, settings: object = {}): ReadyMade {
  const { bits, sym, version, groupSize, isOrdered = false } = variant;
  const config = { quant_method: 'gptq', bits, sym, group_size: groupSize, desc_act: isOrdered };
  return {
    model: 'llama3_gqa',
    quantizationConfig: {
      ...config,
      ...(version === 'gptq_v2' && { checkpoint_format: version }),
      ...settings,
    },
    publish: publisher(variant),
  };
}

describe("GPTQ's layout", () => {
  it.each<Variant>([
    V1,
    { ...V1, version: 'gptq_v2' },
    { ...V1, sym: true },
    { ...V1, groupSize: -1 },
    { ...V1, bits: 8, sym: true },
    { ...V1, bits: 8, sym: true, version: 'gptq_v2', groupSize: -1 },
    { ...V1, isOrdered: true },
    { ...V1, bits: 8, sym: true, isOrdered: true },
    { ...V1, groupSize: -1, isOrdered: true },
  ])('gives the logits of the floats it means: %o', async (variant) => {
    expect(await errorOf(checkpoint(variant))).toBeLessThan(1e-4);
  });

  it('is read for mixtures of experts, some layers left as they were', async () => {
    const mixtral = { ...checkpoint(V1), model: 'mixtral', keep: /layers\.0\.self_attn/ } as const;
    expect(await errorOf(mixtral)).toBeLessThan(1e-4);
  });

  it.each([
    [{ bits: 3 }, /bits is 3, and only 4 or 8/],
    [{ checkpoint_format: 'marlin' }, /checkpoint_format is "marlin"/],
    [{ sym: true }, /qzeros holds a zero of \d+, though "sym" is true/],
    [{ dynamic: { '+:.*down.*': { bits: 8 } } }, /"dynamic" settings/],
    [{ group_size: 64 }, /qzeros is I32 \[16, 32\], but must be I32 \[8, 32\]/],
  ])('with %o is refused', async (change, message) => {
    await expect(loading(checkpoint(V1, change))).rejects.toThrow(message);
  });

  it.each([
    ['float32', 1e-4],
    // Activations are int8, in a small random model; codes in the wrong order are no nearer than chance.
    ['auto', 0.15],
  ] as const)('in another order is computed with by the cpu, activations %s', async (precision, bound) => {
    const device = await CpuDevice.open({ numThreads: 2 });
    const error = await errorOf(checkpoint({ ...V1, isOrdered: true }), precision, device);
    await device.dispose();
    expect(error).toBeLessThan(bound);
  });

  it('in another order shares what is alike: columns of an input are brought into it once', async () => {
    const ordered = { ...V1, isOrdered: true };
    await withReadyMade(checkpoint(ordered), async ({ codes }) => {
      const { config, tensors, source } = await openCheckpoint(codes);
      source.close();
      const plan = compile(compileRequest(config, { tensors, kernels: REFERENCE_KERNELS }));
      const count = (wanted: string) => plan.launches.filter(({ op }) => op === wanted).length;
      const { num_hidden_layers: numLayers } = config;
      // Before q, k and v, o, gate and up, down of each layer.
      expect(count('permuteColumns')).toBe(4 * (numLayers as number));
      expect(count('weightOnlyLinear')).toBe(4 * (numLayers as number));
    });
  });

  it.each([
    [
      'groups of other sizes',
      (column: number) => (column === 0 ? 1 : Math.floor(column / 32)),
      /groups of other than 32/,
    ],
    ['experts, each with an order of its own', null, /quantized in different ways/],
  ])('with %s is refused', async (_, groupOf, message) => {
    const { publish, ...rest } = checkpoint(V1);
    let numLayers = 0;
    const shuffled: PublishLayer = (rows, columns, random) => {
      const layer = publish(rows, columns, random);
      const shift = numLayers++;
      const groups = Array.from(
        { length: columns },
        (_column, i) => groupOf?.(i) ?? Math.floor(((i + shift) % columns) / 32),
      );
      return { ...layer, tensors: { ...layer.tensors, '.g_idx': i32([columns], groups) } };
    };
    const model = groupOf === null ? 'mixtral' : 'llama3_gqa';
    await expect(loading({ ...rest, model, publish: shuffled })).rejects.toThrow(message);
  });

  it('with an order that is missing is refused', async () => {
    const { publish, ...rest } = checkpoint({ ...V1, isOrdered: true });
    const bare: PublishLayer = (rows, columns, random) => {
      const { tensors, values } = publish(rows, columns, random);
      return {
        values,
        tensors: Object.fromEntries(Object.entries(tensors).filter(([name]) => name !== '.g_idx')),
      };
    };
    await expect(loading({ ...rest, publish: bare })).rejects.toThrow(/g_idx is missing/);
  });
});
