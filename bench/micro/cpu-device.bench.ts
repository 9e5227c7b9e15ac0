// Times what surrounds the matrix products on the CPU device: attention, sampling, and the overhead of a step.
// node --import tsx bench/micro/cpu-device.bench.ts [attention|sampling|step]…
import { availableParallelism } from 'node:os';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import { compile } from '../../src/compiler/compile.ts';
import { CpuDevice } from '../../src/device/cpu/cpu-device.ts';
import type { StepBatch } from '../../src/device/step.ts';
import { CpuLibrary } from '../../src/ffi/cpu-library.ts';
import { CPU_KERNELS } from '../../src/kernels/cpu/index.ts';
import type { FloatDType } from '../../src/tensor/dtype.ts';
import { randomValues } from '../../test/support/check-launch.ts';
import { compileRequest } from '../../test/support/compile.ts';
import { CpuHarness, matrix, type HarnessLaunch } from '../../test/support/cpu-harness.ts';
import { samplingBatch, type SamplingRow } from '../../test/support/sampling-batch.ts';
import { stepBatch, type SequenceChunk } from '../../test/support/step-batch.ts';

const NUM_RUNS = Number(process.env['NUM_RUNS'] ?? 30);
const BLOCK_SIZE = 16;
const arch = process.env['NEEDLETAIL_CPU_ARCH'] ?? CpuLibrary.available()[0];
const numThreads = Number(process.env['NUM_THREADS'] ?? availableParallelism());

/**
 * Least milliseconds of `run`, after two runs that do not count. With one thread, processor time is what is measured, so
 * that other processes matter less.
 */
async function leastMs(run: () => Promise<unknown>, numRuns = NUM_RUNS): Promise<number> {
  let least = Infinity;
  for (let i = -2; i < numRuns; i++) {
    const [start, used] = [performance.now(), process.cpuUsage()];
    await run();
    const { user, system } = process.cpuUsage(used);
    const ms = numThreads === 1 ? (user + system) / 1000 : performance.now() - start;
    if (i >= 0) least = Math.min(least, ms);
  }
  return least;
}

/** Sequences of `contextLen` tokens, the last `numQueries` of which are computed; blocks from a common pool. */
function sequences(count: number, contextLen: number, numQueries: number): SequenceChunk[] {
  const blocksPerSeq = Math.ceil(contextLen / BLOCK_SIZE);
  return Array.from({ length: count }, (_, seq) => ({
    tokenIds: new Array<number>(numQueries).fill(1),
    numCached: contextLen - numQueries,
    blocks: Array.from({ length: blocksPerSeq }, (_, i) => seq * blocksPerSeq + i),
    logitRows: [],
  }));
}

interface AttentionShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
}

async function timeAttention(
  harness: CpuHarness,
  { numHeads, numKvHeads, headDim }: AttentionShape,
  chunks: SequenceChunk[],
  dtype: FloatDType,
): Promise<void> {
  const numLaunches = 2;
  const numBlocks = Math.max(...chunks.flatMap((chunk) => [...chunk.blocks])) + 1;
  const spec = { layer: 0, numKvHeads, keyHeadDim: headDim, valueHeadDim: headDim, window: null, dtype };
  const session = harness.session([spec], numBlocks, BLOCK_SIZE, 0);
  const step = stepBatch(chunks, BLOCK_SIZE);
  const q = matrix(step.numTokens, numHeads * headDim, randomValues(step.numTokens * numHeads * headDim, 1));
  const shape = { numHeads, numKvHeads, headDim, valueHeadDim: headDim };
  const launch: HarnessLaunch = {
    op: 'attention',
    attributes: {
      layer: 0,
      ...shape,
      scale: headDim ** -0.5,
      window: null,
      softcap: null,
      alibiSlopes: null,
    },
    inputs: [
      q,
      { kind: 'kvCache', layer: 0 },
      { kind: 'input', name: 'blockTables' },
      { kind: 'input', name: 'cuSeqlensQ' },
      { kind: 'input', name: 'contextLens' },
    ],
    outputs: [matrix(step.numTokens, numHeads * headDim)],
  };
  const program = session.prepare(new Array<HarnessLaunch>(numLaunches).fill(launch), step);
  const ms = (await leastMs(() => program.run())) / numLaunches;
  program.free();
  session.free();
  const pairs = chunks.reduce(
    (sum, { tokenIds, numCached }) => sum + tokenIds.length * (numCached + (tokenIds.length + 1) / 2),
    0,
  );
  const gflops = (pairs * numHeads * headDim * 4) / ms / 1e6;
  const cached = chunks.reduce((sum, { tokenIds, numCached }) => sum + tokenIds.length + numCached, 0);
  const bytes = cached * numKvHeads * headDim * 2 * (dtype === 'float32' ? 4 : 2);
  const what = `${numHeads}/${numKvHeads}x${headDim} ${dtype}`;
  const how = `${chunks.length} x ${chunks[0].tokenIds.length} of ${chunks[0].numCached + chunks[0].tokenIds.length}`;
  console.log(
    `attention ${what.padEnd(20)} ${how.padEnd(16)} ${ms.toFixed(3)} ms  ${gflops.toFixed(1)} GFLOP/s  ${(bytes / ms / 1e6).toFixed(1)} GB/s`,
  );
}

async function benchAttention(): Promise<void> {
  const harness = new CpuHarness(arch, numThreads);
  const tinyLlama = { numHeads: 32, numKvHeads: 4, headDim: 64 };
  const llama = { numHeads: 32, numKvHeads: 32, headDim: 128 };
  const tales = { numHeads: 4, numKvHeads: 2, headDim: 64 };
  for (const dtype of ['bfloat16', 'float32'] as const) {
    for (const shape of [tinyLlama, llama, tales]) {
      await timeAttention(harness, shape, sequences(1, 512, 512), dtype);
      await timeAttention(harness, shape, sequences(1, 576, 1), dtype);
      await timeAttention(harness, shape, sequences(1, 4096, 1), dtype);
      await timeAttention(harness, shape, sequences(32, 96, 1), dtype);
      await timeAttention(harness, shape, sequences(32, 1024, 1), dtype);
    }
  }
  harness.close();
}

async function benchSampling(): Promise<void> {
  const harness = new CpuHarness(arch, 1);
  const session = harness.session();
  const rows: Record<string, SamplingRow> = {
    greedy: { temperature: 0 },
    'greedy, 5 logprobs': { temperature: 0, numLogprobs: 5 },
    temperature: { temperature: 1 },
    'top-k 50': { temperature: 1, topK: 50 },
    'top-p 0.9': { temperature: 1, topP: 0.9 },
    'top-k, top-p, min-p, penalty': {
      temperature: 0.7,
      topK: 50,
      topP: 0.9,
      minP: 0.05,
      repetitionPenalty: 1.1,
      history: [{ id: 5, outputCount: 1 }],
    },
  };
  const numRows = 32;
  for (const vocabSize of [32_000, 128_256]) {
    for (const [name, row] of Object.entries(rows)) {
      const line = [`sampling ${vocabSize} ${name}`.padEnd(48)];
      for (const power of [5, 1]) {
        const logits = randomValues(numRows * vocabSize, 1).map((value) => 12 * value ** power);
        const sampling = samplingBatch(
          Array.from({ length: numRows }, (_, position) => ({ ...row, position })),
        );
        const program = session.prepareSampling(logits, vocabSize, sampling);
        const ms = (await leastMs(() => program.run(), 5)) / numRows;
        program.free();
        line.push(`${power === 1 ? 'flat' : 'peaked'} ${ms.toFixed(3)} ms/row`);
      }
      console.log(line.join('  '));
    }
  }
  session.free();
  harness.close();
}

async function benchStep(): Promise<void> {
  const checkpoint = await openCheckpoint('models/llama-tales-8m');
  const device = await CpuDevice.open({ numThreads, arch });
  for (const weightDType of ['bfloat16', 'float32'] as const) {
    const plan = compile(
      compileRequest(checkpoint.config, {
        tensors: checkpoint.tensors,
        target: device.target,
        kernels: CPU_KERNELS,
        recipe: { weightDType, quantization: null, kvDType: weightDType, activationPrecision: 'auto' },
        limits: { maxNumBatchedTokens: 512, maxNumSeqs: 64, maxNumLogitRows: 64 },
      }),
    );
    const executable = await device.load(plan, checkpoint.source, { numBlocks: [512] });
    const time = async (name: string, step: StepBatch): Promise<void> => {
      const ms = await leastMs(() => executable.run({ ...step, returnLogits: false }), 8 * NUM_RUNS);
      const rate = (step.numTokens / ms) * 1000;
      console.log(
        `step llama-tales-8m ${weightDType} ${name.padEnd(24)} ${ms.toFixed(3)} ms  ${rate.toFixed(0)} tokens/s`,
      );
    };
    const withRow = (chunks: SequenceChunk[]) =>
      stepBatch(
        chunks.map((chunk) => ({ ...chunk, logitRows: [chunk.tokenIds.length - 1] })),
        BLOCK_SIZE,
      );
    await time('prefill 512', withRow(sequences(1, 512, 512)));
    await time('decode 1 of 576', withRow(sequences(1, 576, 1)));
    await time('decode 8 of 96', withRow(sequences(8, 96, 1)));
    await time('decode 32 of 96', withRow(sequences(32, 96, 1)));
    await executable.dispose();
  }
  await device.dispose();
  checkpoint.source.close();
}

const BENCHES: Record<string, () => Promise<void>> = {
  attention: benchAttention,
  sampling: benchSampling,
  step: benchStep,
};
const wanted = process.argv.slice(2);
console.log(`${arch}, ${numThreads} threads`);
for (const [name, bench] of Object.entries(BENCHES))
  if (wanted.length === 0 || wanted.includes(name)) await bench();
