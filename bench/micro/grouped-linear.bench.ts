// Times the products of a layer of experts, beside one linear of a single expert's shape on as many rows as it gets.
// node --import tsx bench/micro/grouped-linear.bench.ts
import { availableParallelism } from 'node:os';
import { CpuLibrary } from '../../src/ffi/cpu-library.ts';
import { groupedLinear } from '../../src/kernels/cpu/grouped-linear.ts';
import { linear } from '../../src/kernels/cpu/linear.ts';
import type { KernelQuery } from '../../src/kernels/kernel.ts';
import { plainStep } from '../../test/support/check-launch.ts';
import {
  CpuHarness,
  matrix,
  type HarnessLaunch,
  type HarnessOperand,
  type HarnessSession,
} from '../../test/support/cpu-harness.ts';

const NUM_RUNS = Number(process.env['NUM_RUNS'] ?? 9);
const numThreads = Number(process.env['NUM_THREADS'] ?? availableParallelism());
const arch = process.env['NEEDLETAIL_CPU_ARCH'] ?? CpuLibrary.available()[0];

/** A quarter of a layer of Qwen3-30B-A3B: its gate projections, 100 MB in bfloat16. */
const NUM_EXPERTS = 32;
const EXPERTS_PER_TOKEN = 8;
const OUTPUTS = 768;
const INPUTS = 2048;
const TOKEN_COUNTS = [1, 4, 16, 64, 512];

function queryFor(maxRows: number, attributes: KernelQuery['attributes'], weightRows: number): KernelQuery {
  return {
    arch,
    weightDType: 'bfloat16',
    weightFormat: null,
    kvDType: 'bfloat16',
    activationPrecision: 'auto',
    activationDType: 'float32',
    maxRows,
    weightRows,
    weightColumns: INPUTS,
    attributes,
  };
}

function weightOf(rows: number): HarnessOperand {
  const values = new Float32Array(rows * INPUTS).fill(0.01);
  const layout = groupedLinear.weightLayout(queryFor(1, {}, rows));
  return { kind: 'weight', values, shape: [rows, INPUTS], dtype: 'bfloat16', layout };
}

function ones(rows: number): HarnessOperand {
  return matrix(rows, INPUTS, new Float32Array(rows * INPUTS).fill(1));
}

/** Tokens choose evenly, no token an expert twice. */
function expertLaunch(weight: HarnessOperand, numTokens: number): HarnessLaunch {
  const attributes = { numMatrices: NUM_EXPERTS, matricesPerToken: EXPERTS_PER_TOKEN };
  const ids = Int32Array.from({ length: numTokens * EXPERTS_PER_TOKEN }, (_, i) => (i * 5) % NUM_EXPERTS);
  return {
    op: 'groupedLinear',
    attributes,
    inputs: [ones(numTokens), weight, matrix(numTokens, EXPERTS_PER_TOKEN, ids)],
    outputs: [matrix(numTokens, EXPERTS_PER_TOKEN * OUTPUTS)],
    query: queryFor(numTokens, attributes, NUM_EXPERTS * OUTPUTS),
  };
}

function linearLaunch(weight: HarnessOperand, rows: number): HarnessLaunch {
  const query = queryFor(rows, {}, OUTPUTS);
  return {
    op: 'linear',
    attributes: {},
    inputs: [ones(rows), weight],
    outputs: [matrix(rows, OUTPUTS)],
    query,
  };
}

/** Median milliseconds. */
async function time(session: HarnessSession, launches: HarnessLaunch[], numTokens: number): Promise<number> {
  const program = session.prepare(launches, plainStep(numTokens));
  const times: number[] = [];
  for (let i = -1; i < NUM_RUNS; i++) {
    const start = performance.now();
    await program.run();
    if (i >= 0) times.push(performance.now() - start);
  }
  program.free();
  return times.sort((a, b) => a - b)[times.length >> 1];
}

const harness = new CpuHarness(arch, numThreads);
const session = harness.session();
const [experts, separate] = [
  weightOf(NUM_EXPERTS * OUTPUTS),
  Array.from({ length: NUM_EXPERTS }, () => weightOf(OUTPUTS)),
];
console.log(`${arch}, ${numThreads} threads, ${linear.variants(queryFor(1, {}, 1))[0].kernel}`);
for (const numTokens of TOKEN_COUNTS) {
  const numActive = Math.min(NUM_EXPERTS, numTokens * EXPERTS_PER_TOKEN);
  const rows = Math.ceil((numTokens * EXPERTS_PER_TOKEN) / numActive);
  const ms = await time(session, [expertLaunch(experts, numTokens)], numTokens);
  const eachMs =
    (await time(
      session,
      separate.map((weight) => linearLaunch(weight, rows)),
      rows,
    )) / separate.length;
  const gbps = (numActive * OUTPUTS * INPUTS * 2) / ms / 1e6;
  const gflops = (2 * numTokens * EXPERTS_PER_TOKEN * OUTPUTS * INPUTS) / ms / 1e6;
  console.log(
    `${String(numTokens).padStart(4)} tokens, ${numActive} experts of ${rows} rows: ${ms.toFixed(3)} ms, ` +
      `${gbps.toFixed(1)} GB/s, ${gflops.toFixed(0)} GFLOP/s; as linears one by one ${(eachMs * numActive).toFixed(3)} ms`,
  );
}
session.free();
harness.close();
