// Entry of the engine's process. The pipe to its parent is file descriptor 3.
import { loadEngine } from '../load-engine.ts';
import { runEngineProcess } from './run-engine-process.ts';

await runEngineProcess(loadEngine);
