// AutoAWQ's checkpoints (version gemm), written here bit by bit from the published layout.
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

const GROUP = 32;
/** Nibble i of a word holds the output channel of this place among the word's eight. */
const ORDER = [0, 2, 4, 6, 1, 3, 5, 7];

/** int32 `[inputs, outputs / 8]` of numbers `[inputs, outputs]`. */
function pack(numbers: readonly number[], inputs: number, outputs: number): number[] {
  return matrix(inputs, outputs / 8, (input, word) =>
    ORDER.reduce(
      (bits, place, nibble) => bits | (numbers[input * outputs + 8 * word + place] << (4 * nibble)),
      0,
    ),
  );
}

const publish: PublishLayer = (rows, columns, random) => {
  const groups = columns / GROUP;
  const codes = randomInts(columns * rows, 16, random);
  const zeros = randomInts(groups * rows, 16, random);
  const scales = randomScales(groups * rows, 8, random);
  return {
    tensors: {
      '.qweight': i32([columns, rows / 8], pack(codes, columns, rows)),
      '.qzeros': i32([groups, rows / 8], pack(zeros, groups, rows)),
      '.scales': f16([groups, rows], scales),
    },
    values: Float32Array.from(
      matrix(rows, columns, (row, column) => {
        const group = Math.floor(column / GROUP) * rows + row;
        return (codes[column * rows + row] - zeros[group]) * scales[group];
      }),
    ),
  };
};

const quantizationConfig = {
  quant_method: 'awq',
  bits: 4,
  group_size: GROUP,
  zero_point: true,
  version: 'gemm',
  modules_to_not_convert: null,
};
const llama: ReadyMade = { model: 'llama3_gqa', quantizationConfig, publish };

const changed = (tensors: (published: ReturnType<PublishLayer>['tensors']) => object): ReadyMade => ({
  ...llama,
  publish: (...layer) => {
    const published = publish(...layer);
    return { ...published, tensors: { ...published.tensors, ...tensors(published.tensors) } };
  },
});

describe("AutoAWQ's gemm layout", () => {
  it('gives the logits of the floats it means', async () => {
    expect(await errorOf(llama)).toBeLessThan(1e-4);
  });

  it('may leave layers as they were', async () => {
    const keep = /layers\.0\.self_attn/;
    const config = { ...quantizationConfig, modules_to_not_convert: ['layers.0.self_attn'] };
    expect(await errorOf({ ...llama, keep, quantizationConfig: config })).toBeLessThan(1e-4);
  });

  it('is read for mixtures of experts', async () => {
    expect(await errorOf({ ...llama, model: 'mixtral' })).toBeLessThan(1e-4);
  });

  it('is read for stacked projections', async () => {
    expect(await errorOf({ ...llama, model: 'phi3' })).toBeLessThan(1e-4);
  });

  it.each([
    [{ version: 'gemv' }, /only "gemm" can be read; quantize the model again with version="GEMM"/],
    [{ bits: 3 }, /bits is 3, and only 4/],
    [{ zero_point: false }, /zero_point is false/],
    [{ group_size: 48 }, /groups of 48 do not divide the \d+ columns/],
    [{ group_size: 64 }, /qzeros is I32 \[16, 32\], but must be I32 \[8, 32\]/],
  ])('with %o is refused', async (change, message) => {
    await expect(
      loading({ ...llama, quantizationConfig: { ...quantizationConfig, ...change } }),
    ).rejects.toThrow(message);
  });

  it.each([0, NaN, Infinity])('with a scale of %d is refused', async (scale) => {
    const bad = changed(({ '.scales': { shape } }) => ({
      '.scales': f16(shape, Array<number>(shape[0] * shape[1]).fill(scale)),
    }));
    await expect(loading(bad)).rejects.toThrow(new RegExp(`proj.scales holds a scale of ${scale}`));
  });

  it('with an unknown tensor of codes is refused', async () => {
    await expect(loading(changed(() => ({ '.g_idx': i32([4], [0, 0, 0, 0]) })))).rejects.toThrow(
      /g_idx is I32, for which the quantization_config of config.json has no place/,
    );
  });
});
