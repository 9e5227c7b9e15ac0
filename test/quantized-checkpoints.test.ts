// Codes that stand in a checkpoint or in a plan directory run exactly as those that loading makes of floats.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { quantizedTensors } from '../src/compiler/expected-tensors.ts';
import { packWeight } from '../src/compiler/pack-weight.ts';
import { readPlanDirectory, writePlanDirectory } from '../src/compiler/plan-directory.ts';
import type { Plan } from '../src/compiler/plan.ts';
import { publishedQuantization, quantizationRules } from '../src/compiler/quantization-rules.ts';
import type { QuantizationRules } from '../src/compiler/request.ts';
import { ReferenceDevice } from '../src/device/reference/reference-device.ts';
import { REFERENCE_KERNELS } from '../src/kernels/reference.ts';
import { encodeCodes } from '../src/tensor/codes.ts';
import { isCodeDType } from '../src/tensor/dtype.ts';
import { DEFAULT_QUANTIZATION_KEEP, type Quantization } from '../src/tensor/precision.ts';
import { quantizeRows } from '../src/tensor/quantize-rows.ts';
import type { PackedWeightSource, TensorCatalog, TensorSource } from '../src/tensor/tensor-source.ts';
import { compileRequest } from './support/compile.ts';
import { loadReference, type ReferenceCheckpoint } from './support/reference-checkpoint.ts';
import { stepBatch } from './support/step-batch.ts';

const device = new ReferenceDevice();
const CASES = ['llama3_gqa', 'gpt2', 'mixtral', 'gpt_oss'].flatMap((name) =>
  (['int8', 'int4', 'fp8'] as const).map((recipe) => [name, recipe] as const),
);

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'needletail-quantized-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function rulesOf(name: Quantization): QuantizationRules {
  return quantizationRules(name, name === 'int4' ? 16 : null, DEFAULT_QUANTIZATION_KEEP);
}

function planOf(
  { config }: ReferenceCheckpoint,
  tensors: TensorCatalog,
  quantization: QuantizationRules | null,
): Plan {
  return compile(
    compileRequest(config, {
      tensors,
      target: device.target,
      recipe: {
        weightDType: 'bfloat16',
        quantization,
        kvDType: 'float8_e4m3fn',
        activationPrecision: 'auto',
      },
      limits: { maxNumBatchedTokens: 64, maxNumSeqs: 2, maxNumLogitRows: 4 },
      blockSize: 16,
      maxModelLen: 64,
      kernels: REFERENCE_KERNELS,
    }),
  );
}

async function logitsOf(
  plan: Plan,
  source: TensorSource | PackedWeightSource,
  prompt: readonly number[],
): Promise<Float32Array> {
  const executable = await device.load(plan, source, { numBlocks: plan.kvCacheGroups.map(() => 4) });
  const sequence = { tokenIds: prompt, numCached: 0, blocks: [2, 0] };
  const step = stepBatch([sequence], plan.blockSize, plan.kvCacheGroups.length);
  return (await executable.run(step)).logits!;
}

/** The tensors of `catalog`: codes and scales made of the floats that `plan` reads, matrices stored `[rows, columns]`. */
function quantizedSource(
  { readTensor, source }: ReferenceCheckpoint,
  plan: Plan,
  catalog: TensorCatalog,
): TensorSource {
  const parts = plan.weights.flatMap((weight) => weight.parts);
  const transposed = new Set(parts.filter((part) => part.transpose).map((part) => part.tensor));
  const quantized = (name: string) => {
    const { shape, quantized: formats } = catalog.get(name)!;
    const { weights } = formats!;
    const values = transposed.has(name) ? turned(readTensor(name), shape) : readTensor(name);
    return quantizeRows(values, { ...weights, groupSize: weights.groupSize ?? shape.at(-1)! });
  };
  return {
    read(name) {
      const { dtype, shape } = catalog.get(name)!;
      if (isCodeDType(dtype)) return { dtype, shape, bytes: encodeCodes(dtype, quantized(name).codes) };
      if (!name.endsWith('_scale')) return source.read(name);
      const { scales } = quantized(name.replace(/_scale$/, ''));
      return { dtype, shape, bytes: new Uint8Array(scales.buffer) };
    },
    close: () => undefined,
  };
}

/** Matrices `[rows, columns]` of what is stored `[columns, rows]`. */
function turned(values: Float32Array, shape: readonly number[]): Float32Array {
  const [rows, columns] = shape.slice(-2);
  return values.map((_, i) => {
    const start = i - (i % (rows * columns));
    const [row, column] = [Math.floor((i - start) / columns), i % columns];
    return values[start + column * rows + row];
  });
}

describe.each(CASES)('%s in %s', (name, recipe) => {
  const reference = loadReference(name);
  const rules = rulesOf(recipe);
  const [, , prompt] = reference.prompts;

  it('from a plan directory', async () => {
    const plan = planOf(reference, reference.catalog, rules);
    const directory = path.join(folder, `${name}-${recipe}`);
    const pack = (weight: Plan['weights'][number]): Uint8Array => packWeight(weight, reference.source);
    await writePlanDirectory(directory, { plan, config: reference.config, pack, files: [] });
    const stored = await readPlanDirectory(directory, { target: device.target, recipe: plan.header.recipe });
    const packed = await logitsOf(stored.plan, stored.weights, prompt);
    stored.weights.close();
    expect(packed).toEqual(await logitsOf(plan, reference.source, prompt));
  });

  it('from a checkpoint of codes', async () => {
    const plan = planOf(reference, reference.catalog, rules);
    const catalog = quantizedTensors(plan, 'bfloat16', rules);
    const stored = planOf(reference, catalog, publishedQuantization(catalog));
    const actual = await logitsOf(stored, quantizedSource(reference, plan, catalog), prompt);
    expect(actual).toEqual(await logitsOf(plan, reference.source, prompt));
  });
});
