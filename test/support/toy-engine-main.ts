// A child process with the toy engine. What its device does is in the config's model name and in the tokens it gets.
import { existsSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { systemClock } from '../../src/engine/clock.ts';
import { runEngineProcess } from '../../src/engine/process/run-engine-process.ts';
import { NeedletailError } from '../../src/util/errors.ts';
import { createToyEngine } from './toy-engine.ts';

/** As the first token of a prompt: the step never ends, or the device breaks. */
export const HANG_TOKEN = 96;
export const BREAK_TOKEN = 95;

const STEP_MS = 1;

await runEngineProcess(async (config, { onProgress }) => {
  console.log('printed while loading');
  if (config.model === 'missing') throw new NeedletailError('bad_checkpoint', 'no tensor named "x"');
  // A path: the process dies while it loads as soon as that file is there.
  if (existsSync(config.model)) process.exit(7);
  onProgress(1, 2, 'weights');
  onProgress(2, 2, 'weights');
  const { engine, executable, clock } = createToyEngine({ ...config, maxModelLen: 4096, numBlocks: 2048 });
  clock.now = () => systemClock.now();
  executable.onStep = async ({ tokenIds, positions }) => {
    const firstTokens = tokenIds.filter((_, t) => positions[t] === 0);
    if (firstTokens.includes(HANG_TOKEN)) await new Promise(() => {});
    await delay(STEP_MS);
    return firstTokens.includes(BREAK_TOKEN) ? 'fail' : null;
  };
  return engine;
});
