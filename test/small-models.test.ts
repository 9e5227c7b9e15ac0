// Any valid config, not the references' alone: random small ones of every family, compiled for the cpu device, against
// the interpreter on the same random weights.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../src/compiler/compile.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import { CPU_KERNELS } from '../src/kernels/cpu/index.ts';
import type { Graph } from '../src/ir/graph.ts';
import type { HFConfig } from '../src/models/model-definition.ts';
import { findModel } from '../src/models/registry.ts';
import { compileRequest } from './support/compile.ts';
import { interpretTwoSteps, randomSource, randomTensors, twoSteps } from './support/interpret.ts';
import { SMALL_CONFIGS } from './support/small-configs.ts';
import { SMALL_EXPERT_CONFIGS } from './support/small-expert-configs.ts';

const BLOCK_SIZE = 4;
const MAX_MODEL_LEN = 32;

describe('small models on the cpu device', () => {
  let device: CpuDevice;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 2 });
  });
  afterAll(() => device.dispose());

  async function runTwoSteps(config: HFConfig, graph: Graph): Promise<Float32Array[]> {
    const plan = compile(
      compileRequest(config, {
        target: device.target,
        recipe: {
          weightDType: 'float32',
          quantization: null,
          kvDType: 'float32',
          activationPrecision: 'float32',
        },
        limits: { maxNumBatchedTokens: 16, maxNumSeqs: 2, maxNumLogitRows: 4 },
        blockSize: BLOCK_SIZE,
        maxModelLen: MAX_MODEL_LEN,
        kernels: CPU_KERNELS,
      }),
    );
    const numBlocks = plan.kvCacheGroups.map(() => 16);
    const executable = await device.load(plan, randomSource(graph), { numBlocks });
    const logits: Float32Array[] = [];
    for (const step of twoSteps(graph, BLOCK_SIZE)) logits.push((await executable.run(step)).logits!.slice());
    await executable.dispose();
    return logits;
  }

  it.each([...SMALL_CONFIGS, ...SMALL_EXPERT_CONFIGS])('%s', async (_, configs) => {
    const check = async (config: HFConfig): Promise<void> => {
      const options = { kvDType: 'float32', maxModelLen: MAX_MODEL_LEN } as const;
      const graph = findModel(config).buildGraph(config, options);
      const expected = interpretTwoSteps(graph, randomTensors(graph));
      const actual = await runTwoSteps(config, graph);
      expected.forEach((logits, step) => {
        const scale = Math.max(...logits.map(Math.abs));
        const error = Math.max(...logits.map((value, i) => Math.abs(value - actual[step][i])));
        expect(scale).toBeGreaterThan(0);
        expect(error / scale).toBeLessThan(1e-3);
      });
    };
    await fc.assert(fc.asyncProperty(configs, check), { numRuns: 6 });
  });
});
