// `needletail bench …`: the benchmarks that users run.
import type { Command } from 'commander';
import { registerBenchLatency } from './bench-latency.ts';
import { registerBenchServe } from './bench-serve.ts';
import { registerBenchThroughput } from './bench-throughput.ts';

export function registerBench(program: Command): void {
  const bench = program.command('bench').description('measure throughput and latency');
  registerBenchThroughput(bench);
  registerBenchLatency(bench);
  registerBenchServe(bench);
}
