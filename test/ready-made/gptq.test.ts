// GPTQ's checkpoints in both versions of the format: the logits are those of the floats that they mean, and what is wrong is refused.
import { describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { compile } from '../../src/compiler/compile.ts';
import { CpuDevice } from '../../src/device/cpu/cpu-device.ts';
import { REFERENCE_KERNELS } from '../../src/kernels/reference.ts';
import { compileRequest } from '../support/compile.ts';
import { GPTQ_V1, gptqCheckpoint, type GptqVariant } from '../support/gptq-layout.ts';
import { errorOf, i32, loading, withReadyMade, type PublishLayer } from '../support/ready-made.ts';

describe("GPTQ's layout", () => {
  it.each<GptqVariant>([
    GPTQ_V1,
    { ...GPTQ_V1, version: 'gptq_v2' },
    { ...GPTQ_V1, sym: true },
    { ...GPTQ_V1, groupSize: -1 },
    { ...GPTQ_V1, bits: 8, sym: true },
    { ...GPTQ_V1, bits: 8, sym: true, version: 'gptq_v2', groupSize: -1 },
    { ...GPTQ_V1, isOrdered: true },
    { ...GPTQ_V1, bits: 8, sym: true, isOrdered: true },
    { ...GPTQ_V1, groupSize: -1, isOrdered: true },
  ])('gives the logits of the floats it means: %o', async (variant) => {
    expect(await errorOf(gptqCheckpoint(variant))).toBeLessThan(1e-4);
  });

  it('is read for mixtures of experts, some layers left as they were', async () => {
    const mixtral = { ...gptqCheckpoint(GPTQ_V1), model: 'mixtral', keep: /layers\.0\.self_attn/ } as const;
    expect(await errorOf(mixtral)).toBeLessThan(1e-4);
  });

  it.each([
    [{ bits: 3 }, /bits is 3, and only 4 or 8/],
    [{ checkpoint_format: 'marlin' }, /checkpoint_format is "marlin"/],
    [{ sym: true }, /qzeros holds a zero of \d+, though "sym" is true/],
    [{ dynamic: { '+:.*down.*': { bits: 8 } } }, /"dynamic" settings/],
    [{ group_size: 64 }, /qzeros is I32 \[16, 32\], but must be I32 \[8, 32\]/],
  ])('with %o is refused', async (change, message) => {
    await expect(loading(gptqCheckpoint(GPTQ_V1, change))).rejects.toThrow(message);
  });

  it.each([
    ['float32', 1e-4],
    // Activations are int8, in a small random model; codes in the wrong order are no nearer than chance.
    ['auto', 0.15],
  ] as const)('in another order is computed with by the cpu, activations %s', async (precision, bound) => {
    const device = await CpuDevice.open({ numThreads: 2 });
    const error = await errorOf(gptqCheckpoint({ ...GPTQ_V1, isOrdered: true }), { precision, device });
    await device.dispose();
    expect(error).toBeLessThan(bound);
  });

  it('in another order shares what is alike: columns of an input are brought into it once', async () => {
    const ordered = { ...GPTQ_V1, isOrdered: true };
    await withReadyMade(gptqCheckpoint(ordered), async ({ codes }) => {
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
    const { publish, ...rest } = gptqCheckpoint(GPTQ_V1);
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

  it('without any layer of codes is refused: floats would load as if nothing had been quantized', async () => {
    const floats = { ...gptqCheckpoint(GPTQ_V1), keep: /./ };
    await expect(loading(floats)).rejects.toThrow(/names gptq, but no tensor holds codes/);
  });

  it('with an order that is missing is refused', async () => {
    const { publish, ...rest } = gptqCheckpoint({ ...GPTQ_V1, isOrdered: true });
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
