// What in-flight batching is worth: the shipped model, short prompts, output lengths of a real chat trace, 32 slots,
// everything queued at the start. Static batches keep their finished rows, as engines of fixed shape do, or drop them.
//   npm run bench:in-flight-vs-static -- --trace AzureLLMInferenceTrace_conv.csv [--rows 200] [--rounds 3] [--threads 2]
//                                        [--output-json FILE]
import { readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { median } from '../src/bench/metrics.ts';
import { runThroughput, warmUp } from '../src/bench/offline.ts';
import { formatNumber, formatStamp, formatTable, stampRun, writeRecord } from '../src/bench/report.ts';
import { parseTrace, traceLengths, withRandomPrompts } from '../src/bench/workload.ts';
import { SHIPPED_MODEL } from '../src/cli/flags.ts';
import { DEFAULT_ENGINE_CONFIG, type BatchingPolicy } from '../src/engine/config.ts';
import { loadEngine } from '../src/engine/load-engine.ts';

const { values: flags } = parseArgs({
  options: {
    trace: { type: 'string' },
    rows: { type: 'string', default: '200' },
    seed: { type: 'string', default: '0' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: '2' },
    'output-json': { type: 'string', default: '' },
  },
});
if (flags.trace === undefined)
  throw new Error('--trace names the CSV of a request trace (ContextTokens, GeneratedTokens)');

const POLICIES: readonly BatchingPolicy[] = ['static', 'static-drop-finished', 'max-utilization'];
const seed = Number(flags.seed);
const lengths = traceLengths(parseTrace(readFileSync(flags.trace, 'utf8')), {
  ...{ numPrompts: Number(flags.rows), seed, inputLen: 16, maxInputLen: 16, maxOutputLen: 960 },
});

async function outputTokensPerSecond(batchingPolicy: BatchingPolicy): Promise<number> {
  const engine = await loadEngine({
    ...{ ...DEFAULT_ENGINE_CONFIG, model: SHIPPED_MODEL, batchingPolicy },
    ...{ maxNumSeqs: 32, numThreads: Number(flags.threads), maxNumQueuedReqs: lengths.length },
  });
  try {
    const requests = withRandomPrompts(lengths, engine.info.vocabSize, seed);
    await warmUp(engine, requests);
    return (await runThroughput(engine, requests)).outputTokensPerSecond;
  } finally {
    await engine.close();
  }
}

const stamp = stampRun();
const runs = POLICIES.map((policy) => ({ policy, outputTokensPerSecond: [] as number[] }));
for (let round = 1; round <= Number(flags.rounds); round++)
  for (const run of runs) {
    run.outputTokensPerSecond.push(await outputTokensPerSecond(run.policy));
    console.error(
      `round ${round}: ${run.policy} ${formatNumber(run.outputTokensPerSecond.at(-1)!)} output tokens/s`,
    );
  }

const staticSpeed = median(runs[0].outputTokensPerSecond);
const results = runs.map((run) => {
  const speed = median(run.outputTokensPerSecond);
  return { ...run, median: speed, ratioToStatic: speed / staticSpeed };
});
const outputTokens = lengths.reduce((sum, row) => sum + row.outputTokens, 0);
console.log(formatStamp(stamp));
console.log(
  `${lengths.length} requests of 16 prompt tokens, ${outputTokens} output tokens in all, 32 slots, ${flags.rounds} rounds\n`,
);
console.log(
  formatTable([
    ['batching', 'output tokens/s', 'x static'],
    ...results.map((run) => [run.policy, formatNumber(run.median), formatNumber(run.ratioToStatic)]),
  ]),
);
if (flags['output-json']) writeRecord(flags['output-json'], { ...stamp, outputTokens, results });
