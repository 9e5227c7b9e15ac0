// `needletail bench throughput`: output tokens per second of an engine in this process, every request queued at the start.
import type { Command } from 'commander';
import type { ThroughputResult } from '../bench/offline.ts';
import { addEngineFlags, engineConfig, type EngineFlags } from './flags.ts';
import { progressBar } from './progress.ts';
import { addWorkloadFlags, workloadOf, type WorkloadFlags } from './workload-flags.ts';

type Flags = EngineFlags & WorkloadFlags & { readonly outputJson?: string };

export function registerBenchThroughput(bench: Command): void {
  const command = bench.command('throughput').description('tokens per second offline, without a server');
  addWorkloadFlags(addEngineFlags(command))
    .option('--output-json <file>', 'write the record of the run')
    .action(runBenchThroughput);
}

async function runBenchThroughput(model: string, flags: Flags): Promise<void> {
  const { loadEngine } = await import('../engine/load-engine.ts');
  const { runThroughput, warmUp } = await import('../bench/offline.ts');
  const { formatStamp, stampRun, writeRecord } = await import('../bench/report.ts');
  const maxNumQueuedReqs = Math.max(flags.maxNumQueuedReqs, flags.numPrompts);
  const config = engineConfig(model, { ...flags, maxNumQueuedReqs });
  const stamp = stampRun();
  const engine = await loadEngine(config, { onProgress: progressBar('loading') });
  try {
    const requests = workloadOf(flags, engine.info, flags.seed);
    await warmUp(engine, requests);
    const result = await runThroughput(engine, requests);
    console.log(formatStamp(stamp));
    console.log(`engine   ${engine.info.device}, ${engine.info.recipe}, ${config.batchingPolicy}\n`);
    console.log(formatThroughput(result));
    if (flags.outputJson !== undefined)
      writeRecord(flags.outputJson, { ...stamp, config, engine: engine.info, result });
  } finally {
    await engine.close();
  }
}

function formatThroughput(result: ThroughputResult): string {
  const perRequest = (tokens: number) => (tokens / result.numRequests).toFixed(1);
  const steady = result.steady?.outputTokensPerSecond ?? null;
  return [
    `requests          ${result.numRequests} (${perRequest(result.inputTokens)} prompt and ${perRequest(result.outputTokens)} output tokens each)`,
    `time              ${result.seconds.toFixed(2)} s, ${result.numSteps} steps, ${result.numPreemptions} preemptions, ${result.maxRunning} running at most`,
    `output tokens/s   ${result.outputTokensPerSecond.toFixed(1)} whole run, ${steady === null ? 'no' : steady.toFixed(1)} steady state`,
    `total tokens/s    ${result.totalTokensPerSecond.toFixed(1)} (${result.requestsPerSecond.toFixed(2)} requests/s)`,
  ].join('\n');
}
