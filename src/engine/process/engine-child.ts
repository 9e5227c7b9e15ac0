// One child process with a pipe of frames. It knows nothing of engines.
import { type ChildProcess, spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import type { Socket } from 'node:net';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { type Frame, FrameDecoder } from './frames.ts';
import { PIPE_FD } from './run-engine-process.ts';

export class EngineChild {
  /** Resolves once with why it is gone; never rejects. */
  readonly exited: Promise<string>;
  readonly #process: ChildProcess;
  readonly #pipe: Socket | null;
  #fault: string | null = null;

  constructor(entry: URL, onFrame: (frame: Frame) => void) {
    // What a library prints must not get into the parent's standard output: it may be somebody's data.
    this.#process = spawn(process.execPath, [...loaderFlags(entry), fileURLToPath(entry)], {
      stdio: ['ignore', 2, 2, 'pipe'],
    });
    this.exited = whenGone(this.#process).then((reason) => this.#fault ?? reason);
    this.#pipe = (this.#process.stdio[PIPE_FD] as Socket | null | undefined) ?? null;
    this.#listen(onFrame);
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** What is sent in the same turn of the event loop goes out as one write. */
  send(frame: Buffer): void {
    if (!this.#pipe?.writable) return;
    this.#pipe.cork();
    this.#pipe.write(frame);
    process.nextTick(() => this.#pipe?.uncork());
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  #listen(onFrame: (frame: Frame) => void): void {
    const decoder = new FrameDecoder();
    this.#pipe?.on('error', () => {}); // the process is gone, which `exited` tells
    this.#pipe?.on('data', (chunk: Buffer) => {
      try {
        for (const frame of decoder.push(chunk)) onFrame(frame);
      } catch (error) {
        // A stream that is out of step cannot be trusted any more.
        this.#fault ??= `it said what cannot be understood: ${String(error)}`;
        this.kill();
      }
    });
  }
}

function whenGone(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    // Not `exit`: what the process wrote before its end is read first.
    child.once('close', (code, signal) => resolve(signal ? `signal ${signal}` : `exit code ${code}`));
  });
}

/** Older versions of Node run TypeScript only through a loader. */
function loaderFlags(entry: URL): string[] {
  const { typescript } = process.features as { readonly typescript?: unknown };
  if (!entry.pathname.endsWith('.ts') || typescript) return [];
  return ['--import', pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href];
}
