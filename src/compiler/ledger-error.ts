// What the ledger says when memory is short: every line, and the cheapest flags to change with the numbers they give.
import { formatBytes, formatCount } from '../util/format-bytes.ts';
import { blocksPerSeq, bytesPerBlock, type Ledger, type MemoryBudget } from './memory-budget.ts';
import type { Plan } from './plan.ts';
import { smallerNumbers } from './smaller-numbers.ts';

type Unjudged = Omit<Ledger, 'error'>;

/** Null if one sequence of `maxModelLen` fits and the cache asked for is there to be had. */
export function explainShortage(plan: Plan, ledger: Unjudged): string | null {
  const { budget } = ledger;
  const seqBytes = blocksPerSeq(plan, budget.maxModelLen) * bytesPerBlock(plan);
  if (ledger.totalBytes > budget.availableBytes && budget.kvCacheMemoryBytes !== null) {
    return text(
      `--kv-cache-memory-bytes ${budget.kvCacheMemoryBytes} does not fit into the device's memory`,
      [...fixedLines(ledger), line('KV cache', ledger.kvCacheBytes), ...totals(ledger.totalBytes, budget)],
      fixes(plan, ledger, seqBytes),
    );
  }
  if (ledger.kvCacheBytes >= seqBytes) return null;
  return text(
    `not even one sequence of ${budget.maxModelLen} tokens (--max-model-len) fits into memory`,
    [
      ...fixedLines(ledger),
      line(`KV cache of one sequence of ${budget.maxModelLen} tokens`, seqBytes),
      ...totals(ledger.fixedBytes + seqBytes, budget),
    ],
    fixes(plan, ledger, seqBytes),
  );
}

function text(problem: string, lines: readonly string[], remedies: readonly string[]): string {
  return [`${problem}:`, ...lines, 'What helps:', ...remedies.map((remedy) => `  ${remedy}`)].join('\n');
}

function line(name: string, bytes: number): string {
  return `  ${name.padEnd(44)} ${formatCount(bytes).padStart(19)}  ${formatBytes(bytes).padStart(11)}`;
}

function fixedLines(ledger: Unjudged): readonly string[] {
  return [
    line('weights', ledger.weightBytes),
    line('rope tables', ledger.ropeTableBytes),
    line('activations', ledger.activationBytes),
    line('workspace', ledger.workspaceBytes),
    ...(ledger.stepBytes > 0 ? [line('arrays of a step', ledger.stepBytes)] : []),
  ];
}

function totals(neededBytes: number, budget: MemoryBudget): readonly string[] {
  const limit =
    budget.kvCacheMemoryBytes === null
      ? line(
          `allowed (--memory-utilization ${budget.memoryUtilization})`,
          Math.floor(budget.availableBytes * budget.memoryUtilization),
        )
      : line('allowed for the cache (--kv-cache-memory-bytes)', budget.kvCacheMemoryBytes);
  return [line('needed', neededBytes), limit, line('available on the device', budget.availableBytes)];
}

function fixes(plan: Plan, ledger: Unjudged, seqBytes: number): readonly string[] {
  const neededBytes = ledger.fixedBytes + seqBytes;
  const remedies = [
    ...shorterContext(plan, ledger),
    ...largerShare(ledger, neededBytes, seqBytes),
    ...smallerNumbersFix(plan, ledger, seqBytes),
  ];
  if (remedies.length > 0) return remedies;
  return [`a device with ${formatBytes(neededBytes)} to spare, or a smaller model: no flag alone is enough`];
}

function shorterContext(plan: Plan, ledger: Unjudged): readonly string[] {
  const length = ledger.longestModelLen;
  if (length === 0 || length >= ledger.budget.maxModelLen) return [];
  const cacheBytes = blocksPerSeq(plan, length) * bytesPerBlock(plan);
  return [
    `--max-model-len ${length}   the longest that fits (one sequence: ${formatBytes(cacheBytes)} of KV cache)`,
  ];
}

/** More of the memory that is there. */
function largerShare(ledger: Unjudged, neededBytes: number, seqBytes: number): readonly string[] {
  const { budget } = ledger;
  if (neededBytes > budget.availableBytes) return [];
  if (budget.kvCacheMemoryBytes === null) {
    return [`${shareFlag(neededBytes, budget)}   ${formatBytes(neededBytes)} of the device's memory`];
  }
  const most = budget.availableBytes - ledger.fixedBytes;
  return [`--kv-cache-memory-bytes ${seqBytes}   room for one such sequence; at most ${most} are there`];
}

function shareFlag(neededBytes: number, budget: MemoryBudget): string {
  return `--memory-utilization ${Math.ceil((neededBytes / budget.availableBytes) * 100) / 100}`;
}

/** The mildest of them that is enough. */
function smallerNumbersFix(plan: Plan, ledger: Unjudged, seqBytes: number): readonly string[] {
  const { budget } = ledger;
  const choices = smallerNumbers(plan).map(({ flags, weightBytes, cacheShare }) => {
    const cacheBytes = seqBytes * cacheShare;
    const neededBytes = ledger.fixedBytes - ledger.weightBytes + weightBytes + cacheBytes;
    return { flags, weightBytes, cacheBytes, neededBytes };
  });
  const choice = choices.find(({ neededBytes }) => neededBytes <= budget.availableBytes);
  if (!choice) return [];
  const { weightBytes, cacheBytes, neededBytes } = choice;
  const allowedBytes = Math.floor(budget.availableBytes * budget.memoryUtilization);
  const share = budget.kvCacheMemoryBytes === null && neededBytes > allowedBytes;
  const flags = share ? `${choice.flags} ${shareFlag(neededBytes, budget)}` : choice.flags;
  const sizes = `weights ${formatBytes(weightBytes)}, KV cache of one sequence ${formatBytes(cacheBytes)}`;
  return [`${flags}   ${sizes}, ${formatBytes(neededBytes)} in all`];
}
