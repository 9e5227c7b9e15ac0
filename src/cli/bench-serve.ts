// `needletail bench serve`: latencies and throughput of any server that speaks OpenAI's completions.
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { LoadOptions } from '../bench/load.ts';
import type { Percentiles, ServiceLevel, ServingMetrics } from '../bench/metrics.ts';
import { decimalNumber, wholeNumber } from './parsers.ts';
import { progressBar } from './progress.ts';
import { addWorkloadFlags, workloadOf, type WorkloadFlags } from './workload-flags.ts';

interface Flags extends WorkloadFlags {
  readonly baseUrl: string;
  readonly endpoint: LoadOptions['endpoint'];
  readonly model?: string;
  readonly apiKey?: string;
  readonly requestRate: number;
  readonly maxConcurrency?: number;
  readonly vocabSize: number;
  readonly goodput?: ServiceLevel;
  readonly seed: number;
  readonly outputJson?: string;
}

export function registerBenchServe(bench: Command): void {
  addWorkloadFlags(
    bench.command('serve').description('load on a running server: TTFT, TPOT, ITL, E2E latency'),
  )
    .option('--base-url <url>', 'the server', 'http://127.0.0.1:8000')
    .addOption(
      new Option('--endpoint <path>', 'what to call')
        .choices(['/v1/completions', '/v1/chat/completions'])
        .default('/v1/completions'),
    )
    .option('--model <name>', 'as the server names it (default: the first of its models)')
    .option('--api-key <key>', 'sent as a bearer token')
    .addOption(
      new Option('--request-rate <r>', 'requests per second, arriving as a Poisson process')
        .argParser(requestRate)
        .default(Infinity, 'inf: all at once'),
    )
    .addOption(new Option('--max-concurrency <n>', 'requests in flight at most').argParser(wholeNumber(1)))
    .addOption(
      new Option('--vocab-size <n>', 'prompts are random token ids below this')
        .argParser(wholeNumber(2))
        .default(1000),
    )
    .addOption(
      new Option(
        '--goodput <bounds...>',
        'count requests within all bounds, in ms: ttft:200 tpot:50 e2el:2000',
      ).argParser(serviceLevel),
    )
    .addOption(
      new Option('--seed <n>', 'of lengths, prompts and arrivals').argParser(wholeNumber(0)).default(0),
    )
    .option('--output-json <file>', 'write the record of the run')
    .action(runBenchServe);
}

function requestRate(text: string): number {
  return /^inf(inity)?$/i.test(text) ? Infinity : decimalNumber(0, 1e6, 'above')(text);
}

const BOUNDS: Readonly<Record<string, keyof ServiceLevel>> = {
  ttft: 'ttftMs',
  tpot: 'tpotMs',
  e2el: 'e2elMs',
};

function serviceLevel(text: string, previous?: ServiceLevel): ServiceLevel {
  const [name = '', value = ''] = text.split(':');
  const bound = BOUNDS[name];
  if (!bound) throw new InvalidArgumentError('Give bounds such as ttft:200 tpot:50 e2el:2000.');
  return {
    ttftMs: null,
    tpotMs: null,
    e2elMs: null,
    ...previous,
    [bound]: decimalNumber(0, 1e9, 'above')(value),
  };
}

async function runBenchServe(flags: Flags): Promise<void> {
  const { runLoad } = await import('../bench/load.ts');
  const { servingMetrics } = await import('../bench/metrics.ts');
  const { formatStamp, stampRun, writeRecord } = await import('../bench/report.ts');
  const stamp = stampRun();
  const requests = workloadOf(flags, { vocabSize: flags.vocabSize, maxModelLen: null }, flags.seed);
  const load = await runLoad(requests, {
    ...{
      baseUrl: flags.baseUrl,
      endpoint: flags.endpoint,
      model: flags.model ?? null,
      apiKey: flags.apiKey ?? null,
    },
    ...{ requestRate: flags.requestRate, maxConcurrency: flags.maxConcurrency ?? null, seed: flags.seed },
    onProgress: progressBar('requests', String),
  });
  const metrics = servingMetrics(load.requests, load.errors.length, flags.goodput ?? null);
  console.log(formatStamp(stamp));
  console.log(
    `server   ${flags.baseUrl}${flags.endpoint}, model ${load.model}; ${describeArrivals(flags)}\n`,
  );
  console.log(await formatServing(metrics, load.hasTokenIds));
  if (load.errors[0] !== undefined) console.log(`first error: ${load.errors[0]}`);
  if (flags.outputJson !== undefined) {
    const { apiKey: _, ...settings } = flags;
    writeRecord(flags.outputJson, {
      ...stamp,
      settings,
      model: load.model,
      hasTokenIds: load.hasTokenIds,
      metrics,
    });
  }
  if (load.errors.length > 0) process.exitCode = 1;
}

function describeArrivals({ requestRate, maxConcurrency, seed }: Flags): string {
  const arrivals = requestRate === Infinity ? 'all at once' : `Poisson, ${requestRate}/s`;
  return `${arrivals}${maxConcurrency === undefined ? '' : `, ${maxConcurrency} in flight at most`}, seed ${seed}`;
}

async function formatServing(metrics: ServingMetrics, hasTokenIds: boolean): Promise<string> {
  const { formatNumber, formatTable } = await import('../bench/report.ts');
  const row = (name: string, { p50, p90, p99, n }: Percentiles) => [
    ...[name, formatNumber(p50), formatNumber(p90), formatNumber(p99), String(n)],
  ];
  const goodput = metrics.goodputRequestsPerSecond;
  return [
    `requests          ${metrics.completed} completed, ${metrics.failed} failed, in ${metrics.durationSeconds.toFixed(2)} s`,
    `requests/s        ${formatNumber(metrics.requestsPerSecond)}${goodput === null ? '' : `, of which within the bounds ${formatNumber(goodput)}`}`,
    `output tokens/s   ${formatNumber(metrics.outputTokensPerSecond)}`,
    `total tokens/s    ${formatNumber(metrics.totalTokensPerSecond)}`,
    '',
    formatTable([
      ['ms', 'p50', 'p90', 'p99', 'n'],
      row('TTFT', metrics.ttftMs),
      row('TPOT', metrics.tpotMs),
      row(hasTokenIds ? 'ITL' : 'ITL (by chunk)', metrics.itlMs),
      row('E2EL', metrics.e2elMs),
    ]),
  ].join('\n');
}
