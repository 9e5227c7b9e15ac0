// The memory ledger as text for people.
import type { CacheLine, Ledger } from '../compiler/ledger.ts';
import type { Plan } from '../compiler/plan.ts';
import { formatBytes, formatCount } from '../util/format-bytes.ts';

export function memoryReport(plan: Plan, ledger: Ledger): string {
  const { availableBytes, kvCacheMemoryBytes, memoryUtilization } = ledger.budget;
  const fixed: readonly (readonly [string, number])[] = [
    ['weights', ledger.weightBytes],
    ['rope tables', ledger.ropeTableBytes],
    ['activations', ledger.activationBytes],
    ['workspace', ledger.workspaceBytes],
    ...(ledger.stepBytes > 0 ? ([['arrays of a step', ledger.stepBytes]] as const) : []),
  ];
  return [
    ...fixed.map(([name, bytes]) => line(name, bytes)),
    ...ledger.caches.map((cache) => line(cacheName(cache, ledger.caches.length), cache.bytes)),
    line('total', ledger.totalBytes),
    ...(kvCacheMemoryBytes === null ? [line('allowed', Math.floor(availableBytes * memoryUtilization))] : []),
    line('available', availableBytes),
    '',
    ...ledger.caches.map((cache) => cacheDetail(cache, plan.blockSize)),
    `sequences at a time (at most ${plan.limits.maxNumSeqs}):`,
    ...ledger.fits.map(
      ({ length, numSeqs }) => `  ${formatCount(numSeqs).padStart(6)} of ${formatCount(length)} tokens`,
    ),
  ].join('\n');
}

function line(name: string, bytes: number): string {
  return `  ${name.padEnd(24)} ${formatCount(bytes).padStart(19)}  ${formatBytes(bytes).padStart(11)}`;
}

function cacheName({ group }: CacheLine, numGroups: number): string {
  return numGroups === 1 ? 'KV cache' : `KV cache, group ${group}`;
}

function cacheDetail(cache: CacheLine, blockSize: number): string {
  const { group, numLayers, window, bytesPerToken, bytesPerBlock, numBlocks } = cache;
  const looksBack = window === null ? '' : `, window ${window}`;
  return (
    `KV cache group ${group}: ${numLayers} layers${looksBack}, ${formatCount(bytesPerToken)} bytes a token; ` +
    `${formatCount(numBlocks)} blocks of ${blockSize} tokens, ${formatCount(bytesPerBlock)} bytes each`
  );
}
