// A plan directory on the CPU device: weights packed by TypeScript must run exactly as those packed natively, and the
// device must hold what the ledger foretold, to the byte.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compileToFit, type MemorySettings, type PlanSettings } from '../src/compiler/compile-to-fit.ts';
import { packWeight } from '../src/compiler/pack-weight.ts';
import { readPlanDirectory, writePlanDirectory } from '../src/compiler/plan-directory.ts';
import { CpuDevice } from '../src/device/cpu/cpu-device.ts';
import type { Executable } from '../src/device/device.ts';
import { CpuLibrary } from '../src/ffi/cpu-library.ts';
import { CPU_KERNELS } from '../src/kernels/cpu/index.ts';
import { findModel } from '../src/models/registry.ts';
import type { FloatDType } from '../src/tensor/dtype.ts';
import { NO_QUANTIZATION } from '../src/tensor/precision.ts';
import { loadReference } from './support/reference-checkpoint.ts';
import { stepBatch } from './support/step-batch.ts';

const DTYPES: readonly FloatDType[] = ['float32', 'bfloat16', 'float16'];

describe.each(CpuLibrary.available())('%s', (arch) => {
  let device: CpuDevice;
  let folder: string;
  beforeAll(async () => {
    device = await CpuDevice.open({ numThreads: 1, arch });
    folder = mkdtempSync(path.join(tmpdir(), 'needletail-plans-'));
  });
  afterAll(async () => {
    await device.dispose();
    rmSync(folder, { recursive: true });
  });

  it.each(['llama3_gqa', 'gpt2'].flatMap((name) => DTYPES.map((dtype) => [name, dtype] as const)))(
    '%s in %s',
    async (name, dtype) => {
      const { config, catalog, source, prompts } = loadReference(name);
      const model = { definition: findModel(config), config, tensors: catalog, checkpointHash: null };
      const settings: PlanSettings & MemorySettings = {
        dtype,
        ...NO_QUANTIZATION,
        activationDType: 'auto',
        maxModelLen: 100,
        maxNumSeqs: 2,
        maxNumBatchedTokens: 60,
        blockSize: 16,
        kvCacheMemoryBytes: null,
        memoryUtilization: 0.5,
      };
      const { plan, ledger } = compileToFit(model, settings, device.target, CPU_KERNELS, 2 ** 30);
      const directory = path.join(folder, `${name}-${dtype}`);
      await writePlanDirectory(directory, {
        plan,
        config,
        pack: (weight) => packWeight(weight, source),
        files: [],
      });
      const stored = await readPlanDirectory(directory, { target: device.target });

      const options = { numBlocks: ledger.numBlocks };
      const packedHere = await device.load(plan, source, options);
      const packedBefore = await device.load(stored.plan, stored.weights, options);
      stored.weights.close();
      const step = stepBatch([{ tokenIds: prompts[3], numCached: 0, blocks: [4, 2, 0] }], plan.blockSize);
      const run = async (executable: Executable) => (await executable.run(step)).logits;
      expect(await run(packedBefore)).toEqual(await run(packedHere));

      expect(packedHere.memory).toEqual({
        weights: ledger.weightBytes + ledger.ropeTableBytes,
        kvCache: ledger.kvCacheBytes,
        activations: ledger.activationBytes,
        workspace: ledger.workspaceBytes,
        steps: ledger.stepBytes,
      });
    },
  );
});
