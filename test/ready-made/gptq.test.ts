// GPTQ's checkpoints in both versions of the format, written here bit by bit from the published layout.
import { describe, expect, it } from 'vitest';
import {
  errorOf,
  f16,
  i32,
  loading,
  matrix,
  randomInts,
  randomScales,
  type PublishLayer,
  type ReadyMade,
} from '../support/ready-made.ts';

interface Variant {
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

function publisher({ bits, sym, version, groupSize }: Variant): PublishLayer {
  return (rows, columns, random) => {
    const size = groupSize === -1 ? columns : groupSize;
    const [groups, perWord] = [columns / size, 32 / bits];
    const codes = randomInts(columns * rows, 2 ** bits, random); // [columns, rows]
    const zeros = sym
      ? Array<number>(groups * rows).fill(2 ** (bits - 1))
      : randomInts(groups * rows, 2 ** bits - 1, random).map((zero) => zero + 1); // [groups, rows]
    const scales = randomScales(groups * rows, 2 ** (bits - 1), random);
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
          Array.from({ length: columns }, (_, i) => Math.floor(i / size)),
        ),
      },
      values: Float32Array.from(
        matrix(rows, columns, (row, column) => {
          const group = Math.floor(column / size) * rows + row;
          return (codes[column * rows + row] - zeros[group]) * scales[group];
        }),
      ),
    };
  };
}

function checkpoint(variant: Variant, settings: object = {}): ReadyMade {
  const { bits, sym, version, groupSize } = variant;
  const config = { quant_method: 'gptq', bits, sym, group_size: groupSize, desc_act: false };
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
  ])('gives the logits of the floats it means: %o', async (variant) => {
    expect(await errorOf(checkpoint(variant))).toBeLessThan(1e-4);
  });

  it('is read for mixtures of experts, some layers left as they were', async () => {
    const mixtral = { ...checkpoint(V1), model: 'mixtral', keep: /layers\.0\.self_attn/ } as const;
    expect(await errorOf(mixtral)).toBeLessThan(1e-4);
  });

  it.each([
    [{ desc_act: true }, /desc_act is true.*made with desc_act=False/],
    [{ bits: 3 }, /bits is 3, and only 4 or 8/],
    [{ checkpoint_format: 'marlin' }, /checkpoint_format is "marlin"/],
    [{ sym: true }, /qzeros holds a zero of \d+, though "sym" is true/],
    [{ dynamic: { '+:.*down.*': { bits: 8 } } }, /"dynamic" settings/],
    [{ group_size: 64 }, /qzeros is I32 \[16, 32\], but must be I32 \[8, 32\]/],
  ])('with %o is refused', async (change, message) => {
    await expect(loading(checkpoint(V1, change))).rejects.toThrow(message);
  });

  it('with columns in another order is refused', async () => {
    const { publish, ...rest } = checkpoint(V1);
    const shuffled: PublishLayer = (rows, columns, random) => {
      const layer = publish(rows, columns, random);
      const groups = Array.from({ length: columns }, (_, i) => i % (columns / V1.groupSize));
      return { ...layer, tensors: { ...layer.tensors, '.g_idx': i32([columns], groups) } };
    };
    await expect(loading({ ...rest, publish: shuffled })).rejects.toThrow(/g_idx do not lie in order/);
  });
});
