// How long a process takes to its first token, and how much of that compiling the kernels takes.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { plainFigure, type Figure } from './figure.ts';
import type { ModelChoice } from './model.ts';
import { runProgram } from './run-program.ts';

/** A child that loads the model and draws one token, from its start to that token. */
export async function measureFirstToken(
  { preset, dtype }: ModelChoice,
  name: string,
  env: NodeJS.ProcessEnv = {},
): Promise<Figure> {
  const { result, seconds } = await runProgram('first-token.js', [preset, dtype], env);
  return plainFigure(name, 'from process start to the first token, random weights', seconds, 's', result);
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
