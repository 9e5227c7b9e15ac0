// compressed-tensors' checkpoints, written here bit by bit from the published layout.
import { describe, expect, it } from 'vitest';
import { PER_CHANNEL, PER_TENSOR, rowsPublisher } from '../support/published-rows.ts';
import {
  bf16,
  errorOf,
  f32,
  i32,
  loading,
  matrix,
  randomInts,
  randomScales,
  type PublishLayer,
  type ReadyMade,
} from '../support/ready-made.ts';

function config(weights: object, activations: object | null, rest: object = {}) {
  const group = { targets: ['Linear'], weights, input_activations: activations, output_activations: null };
  return {
    quant_method: 'compressed-tensors',
    config_groups: { group_0: group },
    ignore: ['lm_head'],
    ...rest,
  };
}

const float = (strategy: string, dynamic = false) => ({
  num_bits: 8,
  type: 'float',
  strategy,
  dynamic,
  symmetric: true,
});
const int = (strategy: string, dynamic = false) => ({
  num_bits: 8,
  type: 'int',
  strategy,
  dynamic,
  symmetric: true,
});
const scaleSuffix = '.weight_scale';

const PLAIN: Readonly<Record<string, ReadyMade>> = {
  'float8 per tensor, static activations': {
    model: 'llama3_gqa',
    quantizationConfig: config(float('tensor'), float('tensor')),
    publish: rowsPublisher({
      ...PER_TENSOR,
      type: 'F8_E4M3',
      scaleSuffix,
      scaleShape: () => [1],
      others: { '.input_scale': f32([1], [0.05]) },
    }),
  },
  'float8 per channel, activations per token': {
    model: 'mixtral',
    quantizationConfig: config(float('channel'), float('token', true)),
    publish: rowsPublisher({ ...PER_CHANNEL, type: 'F8_E4M3', scaleSuffix, scaleType: 'BF16' }),
  },
  'int8 per channel, activations per token': {
    model: 'llama3_gqa',
    quantizationConfig: config(int('channel'), int('token', true)),
    publish: rowsPublisher({ ...PER_CHANNEL, type: 'I8', scaleSuffix }),
    keep: /layers\.1\.mlp/,
  },
};

interface Packing {
  readonly bits: 4 | 8;
  readonly symmetric: boolean;
  readonly groupSize: number | null;
  /** Columns of a group lie anywhere, as "actorder" leaves them. */
  readonly isOrdered?: boolean;
}

/** A word of codes around 0, each with the middle of the range added, the first in the lowest bits. */
function word(bits: number, code: (i: number) => number): number {
  const middle = 2 ** (bits - 1);
  return Array.from({ length: 32 / bits }, (_, i) => (code(i) + middle) << (bits * i)).reduce(
    (all, one) => all | one,
  );
}

function packed({ bits, symmetric, groupSize, isOrdered = false }: Packing): ReadyMade {
  const middle = 2 ** (bits - 1);
  const publish: PublishLayer = (rows, columns, random) => {
    const size = groupSize ?? columns;
    const [groups, perWord] = [columns / size, 32 / bits];
    const signed = (count: number): number[] =>
      randomInts(count, 2 * middle, random).map((code) => code - middle);
    const codes = signed(rows * columns);
    const zeros = symmetric ? Array<number>(rows * groups).fill(0) : signed(rows * groups);
    const scales = randomScales(rows * groups, middle, random);
    const words = matrix(rows, columns / perWord, (row, w) =>
      word(bits, (i) => codes[row * columns + w * perWord + i]),
    );
    const zeroWords = matrix(rows / perWord, groups, (w, group) =>
      word(bits, (i) => zeros[(w * perWord + i) * groups + group]),
    );
    const groupOf = (column: number) => Math.floor((isOrdered ? (5 * column + 3) % columns : column) / size);
    const indices = Array.from({ length: columns }, (_, column) => groupOf(column));
    const shape = new Uint8Array(BigInt64Array.of(BigInt(rows), BigInt(columns)).buffer);
    return {
      tensors: {
        '.weight_packed': i32([rows, columns / perWord], words),
        '.weight_scale': bf16([rows, groups], scales),
        '.weight_shape': { dtype: 'I64', shape: [2], bytes: shape },
        ...(isOrdered && { '.weight_g_idx': i32([columns], indices) }),
        ...(symmetric ? {} : { '.weight_zero_point': i32([rows / perWord, groups], zeroWords) }),
      },
      values: Float32Array.from(
        matrix(rows, columns, (row, column) => {
          const group = row * groups + groupOf(column);
          return (codes[row * columns + column] - zeros[group]) * scales[group];
        }),
      ),
    };
  };
  const strategy = groupSize === null ? 'channel' : 'group';
  const weights = { num_bits: bits, type: 'int', symmetric, strategy, group_size: groupSize };
  return {
    model: 'llama3_gqa',
    quantizationConfig: config(weights, null, { format: 'pack-quantized' }),
    publish,
  };
}

describe("compressed-tensors' layouts", () => {
  it.each(Object.keys(PLAIN))('%s: the logits of the floats it means', async (name) => {
    expect(await errorOf(PLAIN[name])).toBeLessThan(1e-4);
  });

  it.each(Object.keys(PLAIN).filter((name) => PLAIN[name].model !== 'mixtral'))(
    '%s: near them',
    async (name) => {
      const error = await errorOf(PLAIN[name], { precision: 'auto' });
      expect(error).toBeGreaterThan(1e-4);
      expect(error).toBeLessThan(0.4);
    },
  );

  it.each<Packing>([
    { bits: 4, symmetric: true, groupSize: 32 },
    { bits: 4, symmetric: false, groupSize: 32 },
    { bits: 4, symmetric: true, groupSize: null },
    { bits: 8, symmetric: true, groupSize: 64 },
    { bits: 4, symmetric: false, groupSize: 32, isOrdered: true },
  ])('packed, the logits of the floats it means: %o', async (packing) => {
    expect(await errorOf(packed(packing))).toBeLessThan(1e-4);
  });

  const per = PLAIN['float8 per tensor, static activations'];
  it.each<[string, Partial<ReadyMade>, RegExp]>([
    [
      'no input scale',
      { publish: rowsPublisher({ ...PER_TENSOR, type: 'F8_E4M3', scaleSuffix }) },
      /input_scale is missing/,
    ],
    [
      'a KV cache scale of 2',
      { extra: { 'model.layers.0.self_attn.k_scale': f32([1], [2]) } },
      /k_scale scales the KV cache by 2/,
    ],
    ['another type', { quantizationConfig: config(int('tensor'), null) }, /type is "int", and only "float"/],
    ['no group', { quantizationConfig: { quant_method: 'compressed-tensors' } }, /no "config_groups"/],
    [
      'other targets',
      {
        quantizationConfig: {
          ...config(float('tensor'), null),
          config_groups: { a: { targets: ['re:.*q_proj'], weights: float('tensor') } },
        },
      },
      /no group of "config_groups" has .*, whose weight is quantized/,
    ],
  ])('with %s is refused', async (_, change, message) => {
    await expect(loading({ ...per, ...change })).rejects.toThrow(message);
  });

  it('with a KV cache scale of 1 is read', async () => {
    await loading({ ...per, extra: { 'model.layers.0.self_attn.k_scale': f32([1], [1]) } });
  });
});
