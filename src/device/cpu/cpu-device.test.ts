import { execFile } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { compile } from '../../compiler/compile.ts';
import { memoryLedger } from '../../compiler/ledger.ts';
import { packWeight } from '../../compiler/pack-weight.ts';
import { PackedWeights, weightOffsets } from '../../compiler/packed-weights.ts';
import type { Plan } from '../../compiler/plan.ts';
import { CpuLibrary } from '../../ffi/cpu-library.ts';
import { CPU_KERNELS } from '../../kernels/cpu/index.ts';
import type { PackedWeightSource, TensorSource } from '../../tensor/tensor-source.ts';
import { compileRequest } from '../../../test/support/compile.ts';
import { loadReference } from '../../../test/support/reference-checkpoint.ts';
import { stepBatch } from '../../../test/support/step-batch.ts';
import { DeviceError } from '../device.ts';
import { CpuDevice } from './cpu-device.ts';

const { config, catalog, source, prompts } = loadReference('llama3_gqa');
const NUM_BLOCKS = [12];

function planFor(device: CpuDevice): Plan {
  const limits = { maxNumBatchedTokens: 64, maxNumSeqs: 4, maxNumLogitRows: 16 };
  return compile(
    compileRequest(config, { tensors: catalog, target: device.target, kernels: CPU_KERNELS, limits }),
  );
}

const STEP = stepBatch([{ tokenIds: prompts[2], numCached: 0, blocks: [4, 2] }], 16);

describe('CpuDevice', () => {
  let device: CpuDevice;
  let plan: Plan;
  beforeEach(async () => {
    device = await CpuDevice.open({ numThreads: 2 });
    plan = planFor(device);
  });
  afterEach(() => device.dispose());

  const load = (changes: object = {}, from: TensorSource | PackedWeightSource = source) =>
    device.load(plan, from, { numBlocks: NUM_BLOCKS, ...changes });

  it('holds as many bytes as the ledger says, and tells how far loading has come', async () => {
    const progress: [number, number][] = [];
    const executable = await load({
      onProgress: (done: number, total: number) => progress.push([done, total]),
    });
    const cacheBytes = NUM_BLOCKS[0] * plan.blockSize * plan.kvCacheGroups[0].bytesPerToken;
    const ledger = memoryLedger(plan, {
      availableBytes: 2 ** 40,
      kvCacheMemoryBytes: cacheBytes,
      memoryUtilization: 1,
      maxNumSeqs: 4,
      maxModelLen: plan.model.maxModelLen,
    });
    expect(ledger.numBlocks).toEqual(NUM_BLOCKS);
    expect(executable.memory).toEqual({
      weights: ledger.weightBytes + ledger.ropeTableBytes,
      kvCache: ledger.kvCacheBytes,
      activations: ledger.activationBytes,
      workspace: ledger.workspaceBytes,
      steps: ledger.stepBytes,
    });
    expect(progress.at(-1)).toEqual([executable.memory.weights, executable.memory.weights]);
  });

  it('refuses steps with wrong numbers, and goes on', async () => {
    const executable = await load();
    const { logits } = await executable.run(STEP);
    const withToken = (id: number) => ({ ...STEP, tokenIds: STEP.tokenIds.with(3, id) });
    await expect(executable.run(withToken(-1))).rejects.toThrow(DeviceError);
    await expect(executable.run(withToken(plan.model.vocabSize))).rejects.toThrow('tokenIds[3]');
    await expect(executable.run({ ...STEP, positions: STEP.positions.with(0, 1 << 20) })).rejects.toThrow(
      'positions[0]',
    );
    await expect(executable.run({ ...STEP, logitRows: Int32Array.of(24) })).rejects.toThrow('logitRows[0]');
    await expect(executable.run({ ...STEP, cuSeqlensQ: Int32Array.of(0, 25) })).rejects.toThrow('cuSeqlensQ');
    await expect(executable.run({ ...STEP, contextLens: Int32Array.of(33) })).rejects.toThrow(
      'contextLens[0]',
    );
    await expect(executable.run({ ...STEP, blockCopies: Int32Array.of(0, 1, 12) })).rejects.toThrow(
      'blockCopies[1]',
    );
    await expect(executable.run({ ...STEP, blockCopies: Int32Array.of(1, 1, 2) })).rejects.toThrow('group 1');
    await expect(executable.run({ ...STEP, tokenIds: new Int32Array(3) })).rejects.toThrow(
      'tokenIds has 3 elements',
    );
    await expect(executable.run({ ...STEP, groups: [] })).rejects.toThrow('cache groups');
    const many = stepBatch(
      [{ tokenIds: new Array<number>(65).fill(1), numCached: 0, blocks: [0, 1, 2, 3, 4] }],
      16,
    );
    await expect(executable.run(many)).rejects.toThrow('numTokens is 65');
    expect((await executable.run(STEP)).logits).toEqual(logits);
  });

  it('copies blocks before anything else', async () => {
    const executable = await load();
    const { logits: expected } = await executable.run(STEP);
    const prefix = stepBatch([{ tokenIds: prompts[2].slice(0, 16), numCached: 0, blocks: [7] }], 16);
    await executable.run(prefix);
    const rest = stepBatch([{ tokenIds: prompts[2].slice(16), numCached: 16, blocks: [9, 3] }], 16);
    const { logits } = await executable.run({ ...rest, blockCopies: Int32Array.of(0, 7, 9) });
    logits!.forEach((value, i) => expect(Math.abs(value - expected![i])).toBeLessThan(1e-4));
  });

  it('runs one step at a time, beside the event loop', async () => {
    const executable = await load();
    const running = executable.run(STEP);
    await expect(executable.run(STEP)).rejects.toThrow('running already');
    let turns = 0;
    let hasEnded = false;
    void running.then(() => (hasEnded = true));
    while (!hasEnded) {
      await nextTurn();
      turns++;
    }
    expect(turns).toBeGreaterThan(0);
  });

  it('waits for a running step when it is disposed of', async () => {
    const executable = await load();
    const running = executable.run(STEP);
    await executable.dispose();
    await expect(running).resolves.toMatchObject({ rowStatus: Uint8Array.of(0) });
    await expect(executable.run(STEP)).rejects.toThrow('disposed');
    const other = await load();
    const last = other.run(STEP);
    await device.dispose();
    await expect(last).resolves.toBeDefined();
  });

  it('works beside another device', async () => {
    const second = await CpuDevice.open({ numThreads: 3 });
    const executables = [await load(), await second.load(plan, source, { numBlocks: NUM_BLOCKS })];
    const [first, other] = await Promise.all(executables.map((executable) => executable.run(STEP)));
    await second.dispose();
    const again = await executables[0].run(STEP);
    expect(again.logits).toEqual(first.logits);
    other.logits!.forEach((value, i) => expect(Math.abs(value - first.logits![i])).toBeLessThan(1e-4));
  });

  it('takes weights that were packed before', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'needletail-'));
    const path = join(folder, 'weights.bin');
    const { offsets } = weightOffsets(plan);
    const file = openSync(path, 'w');
    for (const weight of plan.weights)
      writeSync(file, packWeight(weight, source), 0, weight.bytes, offsets[weight.id]);
    ftruncateSync(file, weightOffsets(plan).totalBytes);
    closeSync(file);
    const [expected, actual] = [await load(), await load({}, new PackedWeights(path, plan))];
    expect((await actual.run(STEP)).logits).toEqual((await expected.run(STEP)).logits);
    rmSync(folder, { recursive: true });
  });

  it('says which tensor is missing or has another shape', async () => {
    await expect(load({}, { ...source, read: () => source.read('nothing') })).rejects.toThrow('nothing');
    const name = 'model.norm.weight';
    const read = (tensor: string) => source.read(tensor === name ? 'model.embed_tokens.weight' : tensor);
    await expect(load({}, { ...source, read })).rejects.toMatchObject({ code: 'bad_checkpoint' });
  });

  it('stops loading when told to', async () => {
    await expect(load({ signal: AbortSignal.abort() })).rejects.toThrow();
    const executable = await load();
    await expect(executable.run(STEP)).resolves.toBeDefined();
  });

  it('refuses plans of other machines, and more memory than there is', async () => {
    const other = { ...plan, header: { ...plan.header, target: { kind: 'cpu', arch: 'neon-9' } as const } };
    await expect(device.load(other, source, { numBlocks: NUM_BLOCKS })).rejects.toMatchObject({
      code: 'bad_plan',
    });
    await expect(load({ numBlocks: [2 ** 38] })).rejects.toMatchObject({ code: 'out_of_memory' });
  });

  it('marks rows whose logits are NaN', async () => {
    const read = (tensor: string) => {
      const view = source.read(tensor);
      return tensor.endsWith('norm.weight') ? { ...view, bytes: view.bytes.map(() => 0xff) } : view;
    };
    const executable = await load({}, { ...source, read });
    const { rowStatus, tokenIds } = await executable.run(STEP);
    expect([...rowStatus]).toEqual([1]);
    expect([...tokenIds]).toEqual([0]);
  });

  it('names the instruction sets there are when asked for another', async () => {
    await expect(CpuDevice.open({ numThreads: 1, arch: 'z80' })).rejects.toThrow(CpuLibrary.available()[0]);
    expect(device.description).toBe(`2 threads, ${CpuLibrary.available()[0]}`);
    expect(device.availableMemory()).toBeGreaterThan(2 ** 28);
  });
});

describe('a process', () => {
  const run = (how: string) =>
    promisify(execFile)(process.execPath, ['--import', 'tsx', 'test/support/cpu-device-process.ts', how]);

  it.each(['dispose', 'dispose-and-exit', 'exit-in-a-step', 'exit-while-loading', 'forget'])(
    'ends well by %s',
    async (how) => {
      const { stdout } = await run(how);
      expect(stdout).toBe('ended\n');
    },
  );

  it('ends by an uncaught error as any other', async () => {
    await expect(run('throw')).rejects.toMatchObject({ code: 1, signal: null, stdout: 'ended\n' });
  });
});
