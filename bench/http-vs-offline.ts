// What HTTP costs: output tokens per second of 32 streams against the same requests offline, in turns, same machine.
//   npm run build && npm run bench:http-vs-offline -- [--num-prompts 512] [--rounds 3] [--threads 2] [--output-json FILE]
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { median } from '../src/bench/metrics.ts';
import { formatNumber, formatStamp, formatTable, stampRun, writeRecord } from '../src/bench/report.ts';
import { CLI, freePort, run, start, stop, untilHealthy } from './processes.ts';

const { values: flags } = parseArgs({
  options: {
    'num-prompts': { type: 'string', default: '512' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string', default: '2' },
    'output-json': { type: 'string', default: '' },
  },
});

const STREAMS = '32';
const folder = mkdtempSync(path.join(tmpdir(), 'needletail-bench-'));
const record = path.join(folder, 'record.json');
const workload = ['--input-len', '32', '--output-len', '256', '--seed', '0', '--output-json', record];
/** Until the server's JavaScript is compiled (the engine's is little); other prompts, so that no prefix is cached. */
const WARM_UP = ['--num-prompts', '96', '--seed', '1'];
const numPrompts = ['--num-prompts', flags['num-prompts']];
const engine = ['--max-num-seqs', STREAMS, '--threads', flags.threads];
const QUIET = ['--log-level', 'warn'];

async function offline(): Promise<number> {
  await run(process.execPath, [CLI, 'bench', 'throughput', ...engine, ...workload, ...numPrompts]);
  const { result } = JSON.parse(readFileSync(record, 'utf8')) as {
    result: { outputTokensPerSecond: number };
  };
  return result.outputTokensPerSecond;
}

async function overHttp(): Promise<number> {
  const port = String(await freePort());
  const server = start(process.execPath, [CLI, 'serve', ...engine, ...QUIET, '--port', port]);
  try {
    await untilHealthy(server, Number(port));
    const target = ['--base-url', `http://127.0.0.1:${port}`, '--max-concurrency', STREAMS];
    const load = [CLI, 'bench', 'serve', ...target, '--vocab-size', '6144', ...workload];
    await run(process.execPath, [...load, ...WARM_UP]);
    await run(process.execPath, [...load, ...numPrompts]);
  } finally {
    await stop(server);
  }
  const { metrics } = JSON.parse(readFileSync(record, 'utf8')) as {
    metrics: { outputTokensPerSecond: number };
  };
  return metrics.outputTokensPerSecond;
}

const stamp = stampRun();
const speeds = { offline: [] as number[], http: [] as number[] };
for (let round = 1; round <= Number(flags.rounds); round++) {
  speeds.offline.push(await offline());
  speeds.http.push(await overHttp());
  const [o, h] = [speeds.offline.at(-1)!, speeds.http.at(-1)!];
  console.error(`round ${round}: offline ${formatNumber(o)}, HTTP ${formatNumber(h)} output tokens/s`);
}
rmSync(folder, { recursive: true });

const ratio = median(speeds.http) / median(speeds.offline);
console.log(formatStamp(stamp));
console.log(
  `${flags['num-prompts']} requests of 32 prompt and 256 output tokens, ${STREAMS} at once, ${flags.rounds} rounds\n`,
);
console.log(
  formatTable([
    ['', 'output tokens/s', 'x offline'],
    ['offline', formatNumber(median(speeds.offline)), '1'],
    [`${STREAMS} HTTP streams`, formatNumber(median(speeds.http)), formatNumber(ratio)],
  ]),
);
if (flags['output-json']) writeRecord(flags['output-json'], { ...stamp, speeds, ratio });
