// Servers and commands in processes of their own, for benchmarks of the built program.
import { spawn, type ChildProcess } from 'node:child_process';
import http from 'node:http';
import { createServer, type AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));
/** The built command line. */
export const CLI = 'dist/cli/main.js';

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts a command in a process group of its own; only its errors are shown. */
export function start(command: string, args: readonly string[]): ChildProcess {
  return spawn(command, args, { cwd: ROOT, detached: true, stdio: ['ignore', 'ignore', 'inherit'] });
}

/** Ends the whole group of a started command and waits for it. */
export async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.pid === undefined) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  process.kill(-child.pid, 'SIGTERM');
  await exited;
}

/** Runs a command to its end. */
export async function run(command: string, args: readonly string[]): Promise<void> {
  const child = spawn(command, args, { cwd: ROOT, stdio: ['ignore', 'ignore', 'inherit'] });
  const status = await new Promise((resolve) => child.once('exit', resolve));
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed`);
}

/** Resolves as soon as a started server answers `GET /health` with 200. */
export async function untilHealthy(server: ChildProcess, port: number, timeoutMs = 60_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await isHealthy(port))) {
    if (server.exitCode !== null) throw new Error(`the server ended with status ${server.exitCode}`);
    if (performance.now() > deadline) throw new Error(`port ${port} was not healthy within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function isHealthy(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const request = http.get({ host: '127.0.0.1', port, path: '/health' }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    request.on('error', () => resolve(false));
  });
}
