// What every benchmark prints beside its numbers: the machine, the commit and the command that made them.
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus, totalmem } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { formatBytes } from '../util/format-bytes.ts';
import { VERSION } from '../util/version.ts';

export interface RunStamp {
  readonly date: string;
  readonly command: string;
  readonly version: string;
  /** Of needletail's checkout, `-dirty` if files differ from it; null outside of one. */
  readonly commit: string | null;
  readonly node: string;
  readonly machine: { readonly cpu: string; readonly cores: number; readonly memoryBytes: number };
}

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

function git(...args: string[]): string | null {
  const { status, stdout } = spawnSync('git', ['-C', ROOT, ...args], { encoding: 'utf8' });
  return status === 0 ? stdout.trim() : null;
}

function currentCommit(): string | null {
  const commit = git('rev-parse', '--short=12', 'HEAD');
  if (commit === null) return null;
  const changes = git('status', '--porcelain', '--untracked-files=no');
  return changes === '' ? commit : `${commit}-dirty`;
}

/** Shell words as they were given, the program's path shortened and API keys left out. */
export function formatCommand(argv: readonly string[]): string {
  const [, script = '', ...args] = argv;
  const hidden = args.map((word, i) =>
    args[i - 1] === '--api-key' ? '...' : word.replace(/^--api-key=.*/, '--api-key=...'),
  );
  const quote = (word: string) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word}'`);
  return [path.relative(ROOT, script), ...hidden].map(quote).join(' ');
}

export function stampRun(): RunStamp {
  return {
    date: new Date().toISOString(),
    command: formatCommand(process.argv),
    version: VERSION,
    commit: currentCommit(),
    node: process.version,
    machine: { cpu: cpus()[0]?.model ?? 'unknown', cores: availableParallelism(), memoryBytes: totalmem() },
  };
}

export function formatStamp(stamp: RunStamp): string {
  const { cpu, cores, memoryBytes } = stamp.machine;
  return [
    `command  ${stamp.command}`,
    `machine  ${cpu}, ${cores} cores, ${formatBytes(memoryBytes)}; Node ${stamp.node.slice(1)}`,
    `commit   ${stamp.commit ?? 'unknown'} (needletail ${stamp.version}), ${stamp.date}`,
  ].join('\n');
}

/** Three significant digits at least, no more than two decimals: 4587, 49.5, 8.58, 0.125. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return '-';
  if (value === 0 || Math.abs(value) >= 100) return value.toFixed(0);
  return Math.abs(value) >= 10 ? value.toFixed(1) : value.toPrecision(3);
}

/** Rows in aligned columns: the first column to the left, numbers to the right. */
export function formatTable(rows: readonly (readonly string[])[]): string {
  const widths = rows[0].map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const cell = (text: string, column: number) =>
    column === 0 ? text.padEnd(widths[column]) : text.padStart(widths[column]);
  return rows.map((row) => row.map(cell).join('  ').trimEnd()).join('\n');
}

/** Writes a record as JSON, making its folder. */
export function writeRecord(file: string, record: object): void {
  writeText(file, `${JSON.stringify(record, null, 2)}\n`);
}

/** Writes a file, making its folder. */
export function writeText(file: string, text: string): void {
  mkdirSync(path.dirname(path.resolve(file)), { recursive: true });
  writeFileSync(file, text);
}
