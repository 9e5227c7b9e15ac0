// `needletail bench latency`: how long one batch takes, again and again.
import { Option, type Command } from 'commander';
import { addEngineFlags, engineConfig, type EngineFlags } from './flags.ts';
import { wholeNumber } from './parsers.ts';
import { progressBar } from './progress.ts';
import { workloadOf } from './workload-flags.ts';

interface Flags extends EngineFlags {
  readonly batchSize: number;
  readonly inputLen: number;
  readonly outputLen: number;
  readonly numItersWarmup: number;
  readonly numIters: number;
  readonly outputJson?: string;
}

export function registerBenchLatency(bench: Command): void {
  const count = (flag: string, text: string, value: number, min = 1) =>
    new Option(flag, text).argParser(wholeNumber(min, 2 ** 20)).default(value);
  addEngineFlags(bench.command('latency').description('time of one batch, percentiles over its repetitions'))
    .addOption(count('--batch-size <n>', 'sequences in the batch', 8))
    .addOption(count('--input-len <tokens>', 'prompt length', 32))
    .addOption(count('--output-len <tokens>', 'output length', 128))
    .addOption(count('--num-iters-warmup <n>', 'repetitions that do not count', 2, 0))
    .addOption(count('--num-iters <n>', 'repetitions that count', 10))
    .option('--output-json <file>', 'write the record of the run')
    .action(runBenchLatency);
}

async function runBenchLatency(model: string, flags: Flags): Promise<void> {
  const { loadEngine } = await import('../engine/load-engine.ts');
  const { runLatency } = await import('../bench/offline.ts');
  const { formatNumber, formatStamp, formatTable, stampRun, writeRecord } =
    await import('../bench/report.ts');
  const config = engineConfig(model, flags);
  const stamp = stampRun();
  const engine = await loadEngine(config, { onProgress: progressBar('loading') });
  try {
    const lengths = { inputLen: flags.inputLen, outputLen: flags.outputLen, rangeRatio: 0 };
    const workload = { ...lengths, numPrompts: flags.batchSize };
    const batches = Array.from({ length: flags.numItersWarmup + flags.numIters }, (_, i) =>
      workloadOf(workload, engine.info, flags.seed + i),
    );
    if (flags.numItersWarmup > 0) await runLatency(engine, batches.slice(0, flags.numItersWarmup));
    const result = await runLatency(engine, batches.slice(flags.numItersWarmup));
    console.log(formatStamp(stamp));
    console.log(`engine   ${engine.info.device}, ${engine.info.recipe}; batch of ${flags.batchSize}\n`);
    const row = (name: string, { p50, p90, p99, n }: typeof result.batchMs) => [
      ...[name, formatNumber(p50), formatNumber(p90), formatNumber(p99), String(n)],
    ];
    console.log(
      formatTable([
        ['', 'p50', 'p90', 'p99', 'n'],
        row('batch, ms', result.batchMs),
        row('first tokens, ms', result.firstTokensMs),
      ]),
    );
    console.log(`output tokens/s   ${formatNumber(result.outputTokensPerSecond)}`);
    if (flags.outputJson !== undefined)
      writeRecord(flags.outputJson, { ...stamp, config, engine: engine.info, result });
  } finally {
    await engine.close();
  }
}
