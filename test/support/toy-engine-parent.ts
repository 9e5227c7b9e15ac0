// A parent of the toy engine's process. Prints the child's pid, serves one request, and then either ends by itself
// after closing, or stays until it is killed.
import { DEFAULT_ENGINE_CONFIG } from '../../src/engine/config.ts';
import { startEngineProcess } from '../../src/engine/process/engine-process.ts';
import { toyRequest } from './toy-engine.ts';

const engine = await startEngineProcess(
  { ...DEFAULT_ENGINE_CONFIG, model: 'toy' },
  { entry: new URL('./toy-engine-main.ts', import.meta.url) },
);
console.log(engine.pid);
for await (const _ of engine.generate(toyRequest('a', [1, 2, 3], { maxTokens: 4 })));
if (process.argv[2] === 'close') await engine.close();
