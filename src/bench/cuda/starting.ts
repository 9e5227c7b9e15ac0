// How long a process takes to its first token, and how much of that compiling the kernels takes.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { plainFigure, type Figure } from './figure.ts';
import type { ModelChoice } from './model.ts';

/** A child that loads the model and draws one token, from its start to that token. */
export async function measureFirstToken(
  { preset, dtype }: ModelChoice,
  name: string,
  env: NodeJS.ProcessEnv = {},
): Promise<Figure> {
  const program = fileURLToPath(new URL('first-token.js', import.meta.url));
  const startMs = performance.now();
  const child = spawn(process.execPath, [program, preset, dtype], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  let seconds = NaN;
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
    if (text.includes('tokenMs')) seconds = (performance.now() - startMs) / 1000;
  });
  const status = await new Promise((resolve) => child.once('exit', resolve));
  if (status !== 0) throw new Error(`the child that was to draw a token ended with status ${String(status)}`);
  const stages = JSON.parse(text.slice(0, text.indexOf('\n'))) as object;
  return plainFigure(name, 'from process start to the first token, random weights', seconds, 's', stages);
}

/** The same with an empty kernel cache, less the same with a full one: what compiling the kernels takes. */
export async function measureColdCompile(model: ModelChoice, name: string): Promise<Figure> {
  const directory = mkdtempSync(path.join(tmpdir(), 'needletail-kernels-'));
  try {
    const env = { NEEDLETAIL_KERNEL_CACHE: directory };
    const cold = (await measureFirstToken(model, name, env)).value!;
    const warm = (await measureFirstToken(model, name, env)).value!;
    const detail = { coldSeconds: cold, warmSeconds: warm };
    return plainFigure(
      name,
      'longer to the first token with an empty kernel cache',
      cold - warm,
      's',
      detail,
    );
  } finally {
    rmSync(directory, { recursive: true });
  }
}
