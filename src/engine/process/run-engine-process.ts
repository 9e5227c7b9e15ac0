// Makes this process an engine: its pipe, its signals, and its end.
import { Socket } from 'node:net';
import { serveEngine, type LoadEngine } from './engine-server.ts';

/** Where the parent puts its end of the pipe. */
export const PIPE_FD = 3;

/** A step that hangs must not keep the process alive once its parent has let it go. */
const MAX_END_MS = 5000;

export async function runEngineProcess(load: LoadEngine): Promise<void> {
  process.title = 'needletail engine';
  // A terminal's Ctrl-C reaches the whole group; the parent decides when the engine ends, and its death ends it too.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {});
  const pipe = new Socket({ fd: PIPE_FD });
  pipe.once('close', () => setTimeout(() => process.kill(process.pid, 'SIGKILL'), MAX_END_MS).unref());
  await serveEngine(pipe, load);
  process.exit();
}
