// Runs one of the programs beside this file in a process of its own, which prints a line of JSON.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface ProgramResult {
  readonly result: object;
  /** From the start of the process to its line. */
  readonly seconds: number;
}

export async function runProgram(
  file: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<ProgramResult> {
  const startMs = performance.now();
  const child = spawn(process.execPath, [fileURLToPath(new URL(file, import.meta.url)), ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  let seconds = NaN;
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
    if (text.endsWith('\n')) seconds = (performance.now() - startMs) / 1000;
  });
  const status = await new Promise((resolve) => child.once('close', resolve));
  if (status !== 0) throw new Error(`${file} ended with status ${String(status)}`);
  return { result: JSON.parse(text) as object, seconds };
}
